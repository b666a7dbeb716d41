//! BIRD's control protocol: lines with four-digit codes.
//!
//! `dddd-text` goes on, `dddd text` is the last line of a reply, ` text` goes on with the code of
//! the line before, `+text` is an asynchronous message. Codes: 0 success, 1 and 2 data, 8 the
//! request failed, 9 the request was not understood (bird doc/reply_codes).

/// The most bytes of one reply that are taken.
pub const MOST_BYTES: usize = 16 << 20;

/// A complete reply.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    /// The code of its last line.
    pub code: u16,
    /// Its lines with their codes, without the codes' digits.
    pub lines: Vec<(u16, String)>,
}

impl Reply {
    /// Whether BIRD did what was asked.
    pub fn ok(&self) -> bool {
        self.code < 8000
    }

    /// The text of the last line.
    pub fn last(&self) -> &str {
        self.lines.last().map_or("", |(_, text)| text)
    }
}

/// Why the peer is not BIRD, or not sane.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// A line without a code.
    #[error("a line begins neither with a code nor with a space: `{0}`")]
    Line(String),
    /// Too much.
    #[error("a reply is longer than {MOST_BYTES} bytes")]
    TooLong,
}

/// Collects lines into a reply.
#[derive(Default)]
pub struct Parser {
    reply: Reply,
    bytes: usize,
}

impl Parser {
    /// Takes one line (without its newline); tells the reply that it completes.
    pub fn line(&mut self, line: &str) -> Result<Option<Reply>, Malformed> {
        self.bytes += line.len() + 1;
        if self.bytes > MOST_BYTES {
            return Err(Malformed::TooLong);
        }
        if line.starts_with('+') {
            return Ok(None);
        }
        if let Some(text) = line.strip_prefix(' ') {
            let code = self.reply.lines.last().map(|(code, _)| *code);
            let code = code.ok_or_else(|| malformed(line))?;
            self.reply.lines.push((code, text.to_owned()));
            return Ok(None);
        }
        let (code, rest) = line.split_at_checked(4).ok_or_else(|| malformed(line))?;
        let code: u16 = match code.bytes().all(|b| b.is_ascii_digit()) {
            true => code.parse().map_err(|_| malformed(line))?,
            false => return Err(malformed(line)),
        };
        let last = match rest.bytes().next() {
            Some(b'-') => false,
            Some(b' ') | None => true,
            Some(_) => return Err(malformed(line)),
        };
        self.reply.lines.push((code, rest.get(1..).unwrap_or("").to_owned()));
        if !last {
            return Ok(None);
        }
        self.reply.code = code;
        self.bytes = 0;
        Ok(Some(std::mem::take(&mut self.reply)))
    }
}

fn malformed(line: &str) -> Malformed {
    Malformed::Line(line.chars().take(60).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Vec<Reply>, Malformed> {
        let mut parser = Parser::default();
        let mut replies = Vec::new();
        for line in text.lines() {
            replies.extend(parser.line(line)?);
        }
        Ok(replies)
    }

    #[test]
    fn continued_lines_keep_their_code() {
        let replies = parse("0001 BIRD 2.0.12 ready.\n1007-a\n b\n+log\n2002-c\n0000 \n").unwrap();
        assert_eq!(replies.len(), 2);
        assert_eq!(replies[0].last(), "BIRD 2.0.12 ready.");
        let codes: Vec<u16> = replies[1].lines.iter().map(|(c, _)| *c).collect();
        assert_eq!(codes, [1007, 1007, 2002, 0]);
        assert!(replies[1].ok());
        assert!(!parse("9001 syntax error\n").unwrap()[0].ok());
    }

    #[test]
    fn what_is_not_bird_is_refused() {
        for text in ["HTTP/1.1 200 OK", " begins with a continuation", "12", "12ab-x", "1007xy"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[ -~\\n+é0-9]{0,200}") {
            let _ = parse(&text);
        }
    }
}

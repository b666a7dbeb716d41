//! The router's choice of path for each connection, asked of its kernel (RTM_GETROUTE with the
//! client's interface, addresses, protocol and ports).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use crate::command::{SOON, finish};
use crate::workload::messages::Flow;
use crate::workload::record::Transport;

/// The interface (which bears the name of the director behind it) for each connection, by its
/// number. A connection without a path is left out.
pub type Paths = BTreeMap<u64, String>;

/// Asks the kernel of a router for the paths of connections that come in by `interface`.
pub async fn ask(router: &str, interface: &str, flows: &[Flow]) -> Result<Paths> {
    if flows.is_empty() {
        return Ok(Paths::new());
    }
    let lines: String = flows
        .iter()
        .map(|f| {
            let protocol = match f.transport {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            };
            format!(
                "route get {} from {} iif {interface} ipproto {protocol} sport {} dport {}\n",
                f.remote.ip(),
                f.local.ip(),
                f.local.port(),
                f.remote.port()
            )
        })
        .collect();
    let argv = ["ip", "-n", router, "-o", "-force", "-batch", "-"];
    let done = finish(&argv, Some(&lines), SOON).await?;
    let answers = parse(&done.stdout, &done.stderr, flows.len())
        .with_context(|| format!("asking {router} for paths: {}", done.stderr.trim()))?;
    Ok(flows.iter().zip(answers).filter_map(|(f, dev)| Some((f.id, dev?))).collect())
}

/// Reads the output of `ip -o -force -batch -`: a line for each question that has an answer, and
/// for each of the others `Command failed -:LINE` on standard error.
fn parse(stdout: &str, stderr: &str, questions: usize) -> Result<Vec<Option<String>>> {
    let failed: BTreeSet<usize> = stderr
        .lines()
        .filter_map(|l| l.strip_prefix("Command failed -:")?.trim().parse().ok())
        .collect();
    let mut answers = stdout.lines().filter(|l| !l.trim().is_empty());
    let mut out = Vec::with_capacity(questions);
    for line in 1..=questions {
        if failed.contains(&line) {
            out.push(None);
            continue;
        }
        let answer = answers.next().context("fewer answers than questions")?;
        out.push(word_after(answer, "dev").map(str::to_owned));
    }
    ensure!(answers.next().is_none(), "more answers than questions");
    Ok(out)
}

/// The word that follows another.
pub fn word_after<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    words.find(|w| *w == word)?;
    words.next()
}

/// The connections whose path is another one now.
pub fn changed(before: &Paths, after: &Paths) -> BTreeSet<u64> {
    let other = before.iter().filter(|(id, dev)| after.get(id).is_some_and(|now| now != *dev));
    other.map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(list: &[(u64, &str)]) -> Paths {
        list.iter().map(|(id, dev)| (*id, (*dev).to_owned())).collect()
    }

    #[test]
    fn answers_are_matched_with_questions() {
        let stdout = "203.0.113.10 from 10.72.1.2 via 10.71.1.2 dev d1 \\    cache iif c1 \n\
                      203.0.113.10 from 10.72.1.2 via 10.71.3.2 dev d3 \\    cache iif c1 \n";
        let stderr = "RTNETLINK answers: Network is unreachable\nCommand failed -:2\n";
        let answers = parse(stdout, stderr, 3).unwrap();
        assert_eq!(answers, [Some("d1".to_owned()), None, Some("d3".to_owned())]);
        assert!(parse(stdout, "", 3).is_err());
        assert!(parse(stdout, "", 1).is_err());
    }

    #[test]
    fn those_whose_path_is_another_one_have_changed() {
        let before = paths(&[(1, "d1"), (2, "d1"), (3, "d2"), (4, "d1"), (5, "d3")]);
        let after = paths(&[(1, "d2"), (2, "d1"), (3, "d2"), (5, "d2"), (6, "d3")]);
        assert_eq!(changed(&before, &after), BTreeSet::from([1, 5]));
    }
}

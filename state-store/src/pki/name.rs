//! Names in certificates: `d<ID>.<cluster id>.holdfast`.

use std::fmt;
use std::str::FromStr;

use holdfast_schema::cluster::DirectorId;

use super::{PkiError, hex, parse_error};

/// A cluster's id: 16 random bytes, written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// A new one.
    pub fn random() -> ClusterId {
        ClusterId(rand::random())
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<ClusterId, PkiError> {
        let wrong =
            || parse_error("cluster id", format!("`{text}` is not 32 lower-case hex digits"));
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() != 32 || !digits {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(|n| ClusterId(n.to_be_bytes())).map_err(|_| wrong())
    }
}

/// The name of a director in its certificate.
pub fn director_name(director: DirectorId, cluster: ClusterId) -> String {
    format!("d{director}.{cluster}.holdfast")
}

/// Reads what [`director_name`] wrote; only its exact spelling is accepted.
pub fn parse_director_name(name: &str) -> Option<(DirectorId, ClusterId)> {
    let (director, cluster) = name.strip_suffix(".holdfast")?.split_once('.')?;
    let director = DirectorId(director.strip_prefix('d')?.parse().ok()?);
    let cluster = cluster.parse().ok()?;
    (director_name(director, cluster) == name).then_some((director, cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_nothing_else_does() {
        let cluster = ClusterId([0xab; 16]);
        let name = director_name(DirectorId(7), cluster);
        assert_eq!(name, format!("d7.{}.holdfast", "ab".repeat(16)));
        assert_eq!(parse_director_name(&name), Some((DirectorId(7), cluster)));
        for wrong in [
            name.to_uppercase(),
            name.replace("d7", "d07"),
            name.replace("d7", "d+7"),
            name.replace("d7", "7"),
            name.replace("ab.", "a."),
            format!("{name}.example"),
            String::new(),
        ] {
            assert_eq!(parse_director_name(&wrong), None, "{wrong}");
        }
    }
}

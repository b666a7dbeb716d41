//! Which sessions a question is about: the query of `GET /v1/sessions` and `/v1/sessions/count`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Sessions a list has when the query does not say.
pub const DEFAULT_SESSION_LIMIT: usize = 1_000;
/// Most sessions a list can have.
pub const MAX_SESSION_LIMIT: usize = 10_000;

/// The states a session can be in, as [`crate::session::SessionFlags::state_name`] says them.
pub const SESSION_STATES: [&str; 6] =
    ["half-open", "answered", "established", "half-closed", "closed", "reset"];

/// Which sessions are meant: those that fit everything that is given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionQuery {
    /// The client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Endpoint>,
    /// The VIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<Endpoint>,
    /// The backend: `GROUP/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// One of [`SESSION_STATES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// How many sessions to list; [`DEFAULT_SESSION_LIMIT`] if absent, [`MAX_SESSION_LIMIT`] at
    /// the most. Counting ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl SessionQuery {
    /// What goes behind the `?` of the path; empty if everything is meant.
    pub fn to_query_string(&self) -> String {
        let text = |endpoint: &Option<Endpoint>| endpoint.map(|e| e.to_string());
        [
            ("client", text(&self.client)),
            ("vip", text(&self.vip)),
            ("backend", self.backend.clone()),
            ("state", self.state.clone()),
            ("limit", self.limit.map(|limit| limit.to_string())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", percent_encoded(&value?))))
        .collect::<Vec<_>>()
        .join("&")
    }

    /// How many sessions to list.
    pub fn effective_limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_SESSION_LIMIT).min(MAX_SESSION_LIMIT)
    }
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:40000`, `[2001:db8::1]:40000`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port; none: any.
    pub port: Option<u16>,
}

impl Endpoint {
    /// Whether this is meant.
    pub fn matches(&self, other: SocketAddr) -> bool {
        self.address == other.ip() && self.port.is_none_or(|port| port == other.port())
    }
}

/// Neither an address nor `ADDRESS:PORT`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is neither ADDRESS nor ADDRESS:PORT")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Endpoint { address: socket.ip(), port: Some(socket.port()) });
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        let address = bare.parse().map_err(|_| EndpointError(text.to_owned()))?;
        Ok(Endpoint { address, port: None })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;
    fn try_from(text: String) -> Result<Endpoint, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> String {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// A text as it may stand in a query (RFC 3986 section 3.4; everything not unreserved is encoded).
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionFlags;

    #[test]
    fn endpoints_with_and_without_port() {
        for text in ["192.0.2.1", "192.0.2.1:40000", "2001:db8::1", "[2001:db8::1]:40000"] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
        }
        assert_eq!("[::1]".parse::<Endpoint>().unwrap().to_string(), "::1");
        let any: Endpoint = "192.0.2.1".parse().unwrap();
        let one: Endpoint = "192.0.2.1:5".parse().unwrap();
        assert!(any.matches("192.0.2.1:5".parse().unwrap()));
        assert!(one.matches("192.0.2.1:5".parse().unwrap()));
        assert!(!one.matches("192.0.2.1:6".parse().unwrap()));
        assert!(!any.matches("192.0.2.2:5".parse().unwrap()));
        let error = "web".parse::<Endpoint>().unwrap_err().to_string();
        assert_eq!(error, "`web` is neither ADDRESS nor ADDRESS:PORT");
    }

    #[test]
    fn query_strings_are_encoded() {
        assert_eq!(SessionQuery::default().to_query_string(), "");
        let query = SessionQuery {
            client: Some("[::1]:7".parse().unwrap()),
            backend: Some("web/b 1".into()),
            limit: Some(5),
            ..SessionQuery::default()
        };
        assert_eq!(query.to_query_string(), "client=%5B%3A%3A1%5D%3A7&backend=web%2Fb%201&limit=5");
    }

    #[test]
    fn the_states_are_those_of_sessions() {
        let all = (0..=SessionFlags::BACKEND_CLOSED_FIRST.0 * 2 - 1).map(SessionFlags);
        for flags in all {
            assert!(SESSION_STATES.contains(&flags.state_name()), "{}", flags.state_name());
        }
    }
}

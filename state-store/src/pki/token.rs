//! Join tokens: what an operator carries to a new machine.
//!
//! `hfj1-` and base64url (RFC 4648 section 5, no padding) of
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version of the contents, 1 |
//! | 16 | cluster id |
//! | 32 | fingerprint of the cluster's authority |
//! | 32 | secret |
//! | 1 + n | name of the slot |
//! | 1, then 1 + 4 or 16 + 2 each | up to four members: address family (4 or 6), address, port |
//! | 4 | the first bytes of the SHA-256 of all that |
//!
//! The secret shows that the bearer may join; the fingerprint shows the bearer that it talks to the
//! right cluster. The cluster keeps only the secret's hash.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf, BufMut};

use super::{ClusterId, Fingerprint, sha256};

const PREFIX: &str = "hfj1-";
const VERSION: u8 = 1;
const CHECKSUM: usize = 4;

/// The most addresses a token carries.
pub const MAX_ADDRESSES: usize = 4;

/// The longest slot name (bytes).
pub const MAX_NAME: usize = 63;

/// The longest text that can be a token.
const MAX_TEXT: usize = 400;

/// A one-time permission to join a cluster. Its text form is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The cluster.
    pub cluster: ClusterId,
    /// The key of its authority.
    pub authority: Fingerprint,
    /// What proves the permission.
    pub secret: [u8; 32],
    /// The slot: the name of the director to come, 1 to 63 bytes.
    pub name: String,
    /// Where members may be reached, 1 to 4.
    pub addresses: Vec<SocketAddr>,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret stays out of every log.
        f.debug_struct("JoinToken")
            .field("cluster", &self.cluster)
            .field("name", &self.name)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Why a text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another kind of text.
    #[error(
        "this is not a join token: it does not begin with `{PREFIX}`; `holdfast node add` prints one"
    )]
    Prefix,
    /// Made by another version of Holdfast.
    #[error(
        "this join token has version {0}, this version of Holdfast knows {VERSION}; install the cluster's version"
    )]
    Version(u8),
    /// The end is missing.
    #[error("the join token is cut off; copy all of it")]
    Truncated,
    /// Not what was printed.
    #[error("the join token was damaged ({0}); copy it again")]
    Damaged(&'static str),
    /// It cannot be made like this.
    #[error(
        "a join token needs a name of 1 to {MAX_NAME} bytes and 1 to {MAX_ADDRESSES} addresses: {0}"
    )]
    Contents(String),
}

impl JoinToken {
    /// A token with a new secret for the slot `name`. Only the first four addresses are used.
    pub fn new(
        cluster: ClusterId,
        authority: Fingerprint,
        name: &str,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<JoinToken, TokenError> {
        let token = JoinToken {
            cluster,
            authority,
            secret: rand::random(),
            name: name.to_owned(),
            addresses: addresses.into_iter().take(MAX_ADDRESSES).collect(),
        };
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(TokenError::Contents(format!("the name has {} bytes", name.len())));
        }
        if token.addresses.is_empty() {
            return Err(TokenError::Contents("there is no address".to_owned()));
        }
        Ok(token)
    }

    /// SHA-256 of the secret: what the cluster keeps.
    pub fn secret_hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// The text that operators carry.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(256);
        bytes.put_u8(VERSION);
        bytes.put_slice(&self.cluster.0);
        bytes.put_slice(&self.authority);
        bytes.put_slice(&self.secret);
        let name = &self.name.as_bytes()[..self.name.len().min(MAX_NAME)];
        bytes.put_u8(name.len() as u8);
        bytes.put_slice(name);
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        bytes.put_u8(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.put_u8(4);
                    bytes.put_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.put_u8(6);
                    bytes.put_slice(&ip.octets());
                }
            }
            bytes.put_u16(address.port());
        }
        let checksum = sha256(&bytes);
        bytes.put_slice(&checksum[..CHECKSUM]);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

fn octets<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], TokenError> {
    let mut out = [0; N];
    from.try_copy_to_slice(&mut out).map_err(|_| TokenError::Truncated)?;
    Ok(out)
}

fn byte(from: &mut &[u8]) -> Result<u8, TokenError> {
    octets::<1>(from).map(|[b]| b)
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() > MAX_TEXT {
            return Err(TokenError::Damaged("it is too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|e| match e {
            base64::DecodeError::InvalidByte(..) => {
                TokenError::Damaged("it has a character that does not belong there")
            }
            // A length or a last character that cannot be: text is missing at the end.
            _ => TokenError::Truncated,
        })?;
        let mut rest = bytes.as_slice();
        match byte(&mut rest)? {
            VERSION => {}
            other => return Err(TokenError::Version(other)),
        }
        let cluster = ClusterId(octets(&mut rest)?);
        let authority = octets(&mut rest)?;
        let secret = octets(&mut rest)?;
        let length = usize::from(byte(&mut rest)?);
        let name = rest.get(..length).ok_or(TokenError::Truncated)?.to_vec();
        rest = &rest[length..];
        let count = byte(&mut rest)?;
        let mut addresses = Vec::new();
        for _ in 0..count {
            let ip = match byte(&mut rest)? {
                4 => IpAddr::from(octets::<4>(&mut rest)?),
                6 => IpAddr::from(octets::<16>(&mut rest)?),
                _ => return Err(TokenError::Damaged("an address is of no known family")),
            };
            addresses.push(SocketAddr::new(ip, u16::from_be_bytes(octets(&mut rest)?)));
        }
        let covered = bytes.len() - rest.len();
        let checksum: [u8; CHECKSUM] = octets(&mut rest)?;
        if !rest.is_empty() {
            return Err(TokenError::Damaged("something follows its end"));
        }
        if checksum != sha256(&bytes[..covered])[..CHECKSUM] {
            return Err(TokenError::Damaged("its checksum is wrong"));
        }
        let name =
            String::from_utf8(name).map_err(|_| TokenError::Damaged("the name is not UTF-8"))?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(TokenError::Damaged("the name has an impossible length"));
        }
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(TokenError::Damaged("it has an impossible number of addresses"));
        }
        Ok(JoinToken { cluster, authority, secret, name, addresses })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> JoinToken {
        JoinToken {
            cluster: ClusterId([1; 16]),
            authority: [2; 32],
            secret: [3; 32],
            name: "d4".to_owned(),
            addresses: vec![
                "192.0.2.1:7400".parse().unwrap(),
                "[2001:db8::1]:7400".parse().unwrap(),
            ],
        }
    }

    #[test]
    fn every_cut_is_recognised() {
        let text = example().encode();
        assert!(text.len() <= MAX_TEXT);
        for end in PREFIX.len()..text.len() {
            let error = text[..end].parse::<JoinToken>().unwrap_err();
            assert!(
                matches!(
                    error,
                    TokenError::Truncated | TokenError::Damaged("its checksum is wrong")
                ),
                "{end}: {error}"
            );
        }
    }

    #[test]
    fn errors_explain() {
        let text = example().encode();
        let parse = |t: &str| t.parse::<JoinToken>().unwrap_err();
        assert_eq!(parse("hello"), TokenError::Prefix);
        assert_eq!(parse(""), TokenError::Prefix);
        assert_eq!(parse(&format!("{text}AAAA")), TokenError::Damaged("something follows its end"));
        assert!(matches!(parse(&text.replacen("hfj1-AQ", "hfj1-A*", 1)), TokenError::Damaged(_)));
        assert_eq!(parse(&text.replacen("hfj1-AQ", "hfj1-Ag", 1)), TokenError::Version(2));
        assert_eq!(format!("  {text}\n").parse::<JoinToken>(), Ok(example()));
        let longest = JoinToken::new(
            ClusterId([0; 16]),
            [0; 32],
            &"x".repeat(MAX_NAME),
            [SocketAddr::from(([0u16; 8], 1)); 9],
        );
        assert!(longest.unwrap().encode().len() <= MAX_TEXT);
        assert!(JoinToken::new(ClusterId([0; 16]), [0; 32], "", []).is_err());
        assert!(!format!("{:?}", example()).contains("secret"));
    }

    proptest! {
        #[test]
        fn round_trip(
            cluster: [u8; 16],
            authority: [u8; 32],
            secret: [u8; 32],
            name in "[a-z0-9äé-]{1,30}",
            addresses in proptest::collection::vec(any::<SocketAddr>(), 1..=4),
        ) {
            // The flow label and scope of an IPv6 socket address are not carried.
            let addresses: Vec<SocketAddr> =
                addresses.iter().map(|a| SocketAddr::new(a.ip(), a.port())).collect();
            let cluster = ClusterId(cluster);
            let token = JoinToken { cluster, authority, secret, name, addresses };
            prop_assert_eq!(token.encode().parse::<JoinToken>(), Ok(token));
        }

        #[test]
        fn one_changed_character_never_passes(at in 5usize..180, with in "[A-Za-z0-9_-]") {
            let text = example().encode();
            prop_assume!(at < text.len() && text[at..=at] != with);
            let changed = format!("{}{with}{}", &text[..at], &text[at + 1..]);
            prop_assert!(changed.parse::<JoinToken>().is_err());
        }

        #[test]
        fn any_text_is_survived(text in ".{0,200}", tail in "[A-Za-z0-9_-]{0,300}") {
            let _ = text.parse::<JoinToken>();
            let _ = format!("{PREFIX}{tail}").parse::<JoinToken>();
        }
    }
}

//! IP prefixes (RFC 4632): an address and how many of its leading bits count.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// An IP prefix; the host bits are always zero.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not `ADDRESS/LENGTH`.
    #[error("`{0}` is not ADDRESS/LENGTH")]
    Syntax(String),
    /// The length does not fit the address family.
    #[error("prefix length {length} is larger than {most}")]
    Length {
        /// The length that was given.
        length: u8,
        /// The most that the address family allows.
        most: u8,
    },
    /// Bits behind the prefix length are set.
    #[error("`{given}` has bits behind its prefix length; did you mean `{meant}`?")]
    HostBits {
        /// What was given.
        given: String,
        /// The prefix with the bits cleared.
        meant: String,
    },
}

fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(a) & keep).into())
        }
        IpAddr::V6(a) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(a) & keep).into())
        }
    }
}

impl Prefix {
    /// A prefix; host bits must be zero.
    pub fn new(address: IpAddr, length: u8) -> Result<Prefix, PrefixError> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        if length > most {
            return Err(PrefixError::Length { length, most });
        }
        let masked = mask(address, length);
        if masked != address {
            return Err(PrefixError::HostBits {
                given: format!("{address}/{length}"),
                meant: format!("{masked}/{length}"),
            });
        }
        Ok(Prefix { address, length })
    }

    /// The prefix of this length that holds `address`.
    pub fn holding(address: IpAddr, length: u8) -> Prefix {
        let length = length.min(if address.is_ipv4() { 32 } else { 128 });
        Prefix { address: mask(address, length), length }
    }

    /// The prefix that holds just this address.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits count.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && mask(address, self.length) == self.address
    }

    /// Whether the two prefixes share an address.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// How many addresses lie inside (saturating).
    pub fn size(&self) -> u64 {
        let bits = if self.address.is_ipv4() { 32 } else { 128 } - u32::from(self.length);
        1u64.checked_shl(bits).unwrap_or(u64::MAX)
    }

    /// The addresses inside, in order, `limit` at the most.
    pub fn addresses(&self, limit: u64) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, n) = (self.address, self.size().min(limit));
        (0..n).map(move |i| match first {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a) + i as u32).into()),
            IpAddr::V6(a) => IpAddr::V6((u128::from(a) + u128::from(i)).into()),
        })
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads `ADDRESS/LENGTH`, or `ADDRESS` alone as a host prefix.
    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        let syntax = || PrefixError::Syntax(text.to_owned());
        match text.split_once('/') {
            None => Ok(Prefix::host(text.parse().map_err(|_| syntax())?)),
            Some((address, length)) => Prefix::new(
                address.parse().map_err(|_| syntax())?,
                length.parse().map_err(|_| syntax())?,
            ),
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;
    fn try_from(text: String) -> Result<Prefix, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_refused_with_the_remedy() {
        let error = "10.1.2.3/24".parse::<Prefix>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`10.1.2.3/24` has bits behind its prefix length; did you mean `10.1.2.0/24`?"
        );
    }

    #[test]
    fn containment_and_overlap() {
        let p: Prefix = "10.1.2.0/24".parse().unwrap();
        assert!(p.contains("10.1.2.255".parse().unwrap()));
        assert!(!p.contains("10.1.3.0".parse().unwrap()));
        assert!(!p.contains("::".parse().unwrap()));
        assert!(p.overlaps(&"10.1.0.0/16".parse().unwrap()));
        assert!(!p.overlaps(&"10.2.0.0/16".parse().unwrap()));
        assert_eq!(p.size(), 256);
        assert_eq!("0.0.0.0/0".parse::<Prefix>().unwrap().size(), 1 << 32);
        assert!("0.0.0.0/0".parse::<Prefix>().unwrap().contains("255.1.1.1".parse().unwrap()));
    }
}

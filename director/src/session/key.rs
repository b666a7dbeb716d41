//! Flow keys as five machine words: quick to hash, to compare, and to keep in atomics.
#![forbid(unsafe_code)]

use std::hash::{Hash, Hasher};

use holdfast_schema::flow::{Addr, FlowKey, Protocol};

/// The words of a packed key.
pub(super) const KEY_WORDS: usize = 5;

/// The bits of the last word that belong to the key; records keep other things above them.
pub(super) const LAST_WORD: u64 = (1 << 40) - 1;

/// A [`FlowKey`] in words: source (2), destination (2), ports and protocol (1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct PackedKey(pub(super) [u64; KEY_WORDS]);

// Word by word: keyed hashers take a word much quicker than sixteen bytes with a length.
impl Hash for PackedKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in self.0 {
            state.write_u64(word);
        }
    }
}

#[inline]
fn split(addr: &Addr) -> [u64; 2] {
    let both = u128::from_be_bytes(addr.0);
    [(both >> 64) as u64, both as u64]
}

#[inline]
fn join(high: u64, low: u64) -> Addr {
    Addr((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
}

impl PackedKey {
    #[inline]
    pub(super) fn new(key: &FlowKey) -> PackedKey {
        let ([a, b], [c, d]) = (split(&key.src), split(&key.dst));
        let last = u64::from(key.src_port)
            | u64::from(key.dst_port) << 16
            | u64::from(key.protocol.number()) << 32;
        PackedKey([a, b, c, d, last])
    }

    /// The key again. The protocol byte is one of two because only keys are packed.
    #[inline]
    pub(super) fn unpack(&self) -> FlowKey {
        let [a, b, c, d, last] = self.0;
        FlowKey {
            src: join(a, b),
            dst: join(c, d),
            src_port: last as u16,
            dst_port: (last >> 16) as u16,
            protocol: if (last >> 32) as u8 == Protocol::Udp.number() {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unpacking_is_the_inverse(src: [u8; 16], dst: [u8; 16], src_port: u16, dst_port: u16, udp: bool) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let key = FlowKey { src: Addr(src), dst: Addr(dst), src_port, dst_port, protocol };
            let packed = PackedKey::new(&key);
            prop_assert_eq!(packed.unpack(), key);
            prop_assert_eq!(packed.0[4] & !LAST_WORD, 0);
        }
    }
}

//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// The ones' complement sum of bytes as big-endian 16-bit words, not yet folded. An odd last byte
/// counts as the high half of a word. Good for packets up to 16 GB: the sum never overflows.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = words.iter().map(|w| u64::from(u32::from_be_bytes(*w))).sum();
    let mut last = [0u8; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    total += u64::from(u32::from_be_bytes(last));
    total
}

/// Folds a sum to 16 bits with end-around carry.
#[inline]
pub fn fold(mut total: u64) -> u16 {
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + ((total >> 16) & 0xffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    total as u16
}

/// The checksum of a sum: the complement of the fold.
#[inline]
pub fn finish(total: u64) -> u16 {
    !fold(total)
}

/// Whether bytes that contain their own checksum sum up as they should.
#[inline]
pub fn verifies(total: u64) -> bool {
    fold(total) == 0xffff
}

/// The sum of the pseudo header of TCP and UDP over IPv4 (RFC 9293 section 3.1, RFC 768).
#[inline]
pub fn pseudo_header_v4(src: [u8; 4], dst: [u8; 4], protocol: u8, length: u16) -> u64 {
    u64::from(u32::from_be_bytes(src))
        + u64::from(u32::from_be_bytes(dst))
        + u64::from(protocol)
        + u64::from(length)
}

/// What a set of changed words does to a checksum over them (RFC 1624 equation 3:
/// `HC' = ~(~HC + ~m + m')`), so that one set of changes can be applied to several checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Delta(u64);

impl Delta {
    /// No change.
    pub const NONE: Delta = Delta(0);

    /// One 16-bit word changes. It must begin at an even offset of what the checksum covers.
    #[inline]
    pub fn word(self, old: u16, new: u16) -> Delta {
        Delta(self.0 + u64::from(!old) + u64::from(new))
    }

    /// Four bytes change. They must begin at an even offset of what the checksum covers.
    #[inline]
    pub fn quad(self, old: [u8; 4], new: [u8; 4]) -> Delta {
        Delta(self.0 + u64::from(!u32::from_be_bytes(old)) + u64::from(u32::from_be_bytes(new)))
    }

    /// Both sets of changes.
    #[inline]
    pub fn and(self, other: Delta) -> Delta {
        Delta(self.0 + other.0)
    }

    /// The checksum after the changes.
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        finish(self.0 + u64::from(!checksum))
    }

    /// The UDP checksum after the changes: zero means "none" and stays; a computed zero is sent as
    /// all ones (RFC 768).
    #[inline]
    pub fn apply_udp(self, checksum: u16) -> u16 {
        match (checksum, self.apply(checksum)) {
            (0, _) => 0,
            (_, 0) => 0xffff,
            (_, new) => new,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 written down word by word, as a reference.
    fn reference(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        !(total as u16)
    }

    #[test]
    fn rfc_1071_example() {
        // Section 3 of the RFC: the words 0001 f203 f4f5 f6f7 sum to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: HC = dd2f, m = 5555, m' = 3285 gives 0000, where equation 4 of RFC 1141 erred.
        assert_eq!(Delta::NONE.word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn udp_zero_stays_and_computed_zero_becomes_ones() {
        assert_eq!(Delta::NONE.word(0x5555, 0x3285).apply_udp(0), 0);
        assert_eq!(Delta::NONE.word(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn fold_carries_from_everywhere() {
        for (total, folded) in [
            (0, 0),
            (0xffff, 0xffff),
            (0x1_0000, 1),
            (0xffff_ffff, 0xffff),
            (0x1_0000_0000, 1),
            (u64::MAX, 0xffff),
            (u64::MAX - 1, 0xfffe),
        ] {
            assert_eq!(fold(total), folded, "{total:x}");
        }
    }

    proptest! {
        #[test]
        fn sum_equals_the_reference(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(finish(sum(&bytes)), reference(&bytes));
        }

        #[test]
        fn incremental_equals_full(
            mut bytes in proptest::collection::vec(any::<u8>(), 16..200),
            places in proptest::collection::vec((any::<u16>(), any::<u16>()), 1..20),
            quad in any::<([u8; 4], u16)>(),
        ) {
            bytes.truncate(bytes.len() & !1);
            bytes[0] |= 1; // RFC 1624 needs some word that is not zero
            let before = reference(&bytes);
            let mut delta = Delta::NONE;
            for (place, new) in places {
                let at = 2 + usize::from(place) % (bytes.len() - 2) / 2 * 2;
                let at = at.min(bytes.len() - 2);
                let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                delta = delta.word(old, new);
                bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            }
            let at = (2 + usize::from(quad.1) % (bytes.len() - 6)) & !1;
            let old = <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
            delta = delta.and(Delta::NONE.quad(old, quad.0));
            bytes[at..at + 4].copy_from_slice(&quad.0);
            prop_assert_eq!(delta.apply(before), reference(&bytes));
        }
    }
}

//! What is in the payload: every byte tells where it belongs.

use crate::rng::mix;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the client to the backend.
    Up,
    /// From the backend to the client.
    Down,
}

/// How far around a wrong byte it is looked for where it belongs.
const SEARCH: u64 = 1 << 17;

fn word(id: u64, direction: Direction, index: u64) -> [u8; 8] {
    let salt = match direction {
        Direction::Up => 0x5bd1_e995_7b93_a1c7,
        Direction::Down => 0xc2b2_ae3d_27d4_eb4f,
    };
    mix(mix(id ^ salt).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
}

/// The byte at an offset of a connection's stream.
#[must_use]
pub fn byte(id: u64, direction: Direction, offset: u64) -> u8 {
    word(id, direction, offset / 8)[(offset % 8) as usize]
}

/// Appends `len` bytes of a stream, from `offset` on.
pub fn append(id: u64, direction: Direction, offset: u64, len: usize, to: &mut Vec<u8>) {
    let end = offset + len as u64;
    let mut at = offset;
    while at < end {
        let from = (at % 8) as usize;
        let count = (8 - from).min((end - at) as usize);
        to.extend_from_slice(&word(id, direction, at / 8)[from..from + count]);
        at += count as u64;
    }
}

/// The first offset at which bytes are not those of the stream from `offset` on.
pub fn verify(id: u64, direction: Direction, offset: u64, bytes: &[u8]) -> Result<(), u64> {
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let from = (at % 8) as usize;
        let count = (8 - from).min(rest.len());
        let expected = word(id, direction, at / 8);
        let (got, behind) = rest.split_at(count);
        if got != &expected[from..from + count] {
            let same = got.iter().zip(&expected[from..]).take_while(|(a, b)| a == b).count();
            return Err(at + same as u64);
        }
        at += count as u64;
        rest = behind;
    }
    Ok(())
}

/// Where bytes that arrived at `offset` belong, if they are of this stream: looked for nearby, with
/// eight bytes at least.
#[must_use]
pub fn belongs_to(id: u64, direction: Direction, offset: u64, bytes: &[u8]) -> Option<u64> {
    let bytes = bytes.get(..8)?;
    let range = offset.saturating_sub(SEARCH)..offset + SEARCH;
    range.into_iter().find(|at| verify(id, direction, *at, bytes).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_do_not_depend_on_how_they_are_cut(
            id: u64, offset in 0_u64..1 << 40, first in 0_usize..40, second in 0_usize..40,
        ) {
            let mut pieces = Vec::new();
            append(id, Direction::Up, offset, first, &mut pieces);
            append(id, Direction::Up, offset + first as u64, second, &mut pieces);
            let single: Vec<u8> = (0..(first + second) as u64)
                .map(|i| byte(id, Direction::Up, offset + i))
                .collect();
            prop_assert_eq!(&pieces, &single);
            prop_assert_eq!(verify(id, Direction::Up, offset, &pieces), Ok(()));
        }

        #[test]
        fn one_flipped_bit_is_found(id: u64, len in 1_usize..100, at: usize, bit in 0_u32..8) {
            let mut bytes = Vec::new();
            append(id, Direction::Down, 5, len, &mut bytes);
            bytes[at % len] ^= 1 << bit;
            prop_assert_eq!(verify(id, Direction::Down, 5, &bytes), Err(5 + (at % len) as u64));
        }
    }

    #[test]
    fn bytes_of_another_place_are_recognised() {
        let mut bytes = Vec::new();
        append(9, Direction::Down, 1_000, 100, &mut bytes);
        assert_eq!(belongs_to(9, Direction::Down, 2_448, &bytes), Some(1_000));
        assert_eq!(belongs_to(8, Direction::Down, 2_448, &bytes), None);
        assert_eq!(belongs_to(9, Direction::Up, 2_448, &bytes), None);
    }
}

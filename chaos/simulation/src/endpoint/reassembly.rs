//! Received data in order.

use std::collections::BTreeMap;

/// Puts segments into order. Positions count from the SYN, which is 0, so the first byte is 1.
#[derive(Clone, Default, Debug)]
pub(super) struct Reassembly {
    next: i64,
    early: BTreeMap<i64, Vec<u8>>,
    ready: Vec<u8>,
    fin: Option<i64>,
}

impl Reassembly {
    /// With the SYN taken.
    pub(super) fn new() -> Reassembly {
        Reassembly { next: 1, ..Reassembly::default() }
    }

    /// The position that is expected next: behind the FIN, once that was taken.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// Whether the FIN and all before it was taken.
    pub(super) fn finished(&self) -> bool {
        self.fin.is_some_and(|fin| self.next > fin)
    }

    /// Takes data that begins at `at` and ends before `limit`, where the window ends, and perhaps a
    /// FIN behind it.
    pub(super) fn take(&mut self, at: i64, data: &[u8], fin: bool, limit: i64) {
        if self.finished() {
            return;
        }
        let end = at + data.len() as i64;
        if fin && end < limit {
            self.fin = self.fin.or(Some(end));
        }
        // What is behind the window or the FIN is cut off; what was there before stays as it was.
        let end = end.min(limit).min(self.fin.unwrap_or(i64::MAX));
        let from = at.max(self.next);
        if from < end {
            let piece = &data[(from - at) as usize..(end - at) as usize];
            let known = self.early.get(&from).map_or(0, Vec::len);
            if piece.len() > known {
                self.early.insert(from, piece.to_vec());
            }
        }
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() > self.next {
                break;
            }
            let (at, piece) = entry.remove_entry();
            let skip = (self.next - at) as usize;
            if let Some(rest) = piece.get(skip..) {
                self.ready.extend_from_slice(rest);
                self.next += rest.len() as i64;
            }
        }
        if self.fin == Some(self.next) {
            self.next += 1;
        }
    }

    /// The data that are in order and were not read yet.
    pub(super) fn read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Pieces in any order, overlapping and repeated, give the stream once.
        #[test]
        fn any_order_gives_the_stream(
            len in 1_usize..300,
            pieces in proptest::collection::vec((0_usize..300, 1_usize..80), 0..40),
        ) {
            let stream: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
            let mut reassembly = Reassembly::new();
            let mut got = Vec::new();
            let mut send = |from: usize, to: usize| {
                let (from, to) = (from.min(len), to.min(len));
                reassembly.take(1 + from as i64, &stream[from..to], to == len, 10_000);
                got.extend(reassembly.read());
                reassembly.next()
            };
            for (from, count) in pieces {
                send(from, from + count);
            }
            let mut at = 0;
            while at < len {
                send(at, at + 13);
                at += 13;
            }
            prop_assert_eq!(send(len, len), 1 + len as i64 + 1);
            prop_assert_eq!(got, stream);
            prop_assert!(reassembly.finished());
        }
    }

    #[test]
    fn nothing_behind_the_window_or_the_fin() {
        let mut reassembly = Reassembly::new();
        reassembly.take(1, &[1; 10], true, 6);
        assert_eq!((reassembly.read().len(), reassembly.finished()), (5, false));
        reassembly.take(6, &[1; 2], true, 20);
        reassembly.take(9, &[2; 2], false, 20);
        assert_eq!(reassembly.read().len(), 2);
        assert!(reassembly.finished());
    }
}

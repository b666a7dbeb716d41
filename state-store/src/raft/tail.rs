//! The end of a log in memory: what the disk does not hold yet, and as much more as fits.

use std::collections::VecDeque;

use raft::eraftpb::Entry;

/// Bytes that are kept in memory; older entries are read from the disk.
pub const BYTES: usize = 2 << 20;

/// Bytes that an entry takes.
pub fn size(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 64
}

/// The last entries of a log.
pub struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The disk holds all entries up to here; those behind it are all in memory.
    written: u64,
    /// Appends that are being written: raft-rs' number, and the last of their entries that is still
    /// in the log.
    appends: VecDeque<(u64, u64)>,
}

impl Tail {
    /// No entries; the disk holds the log up to `index`.
    pub fn behind(index: u64) -> Tail {
        Tail { entries: VecDeque::new(), bytes: 0, written: index, appends: VecDeque::new() }
    }

    /// The next entry.
    pub fn push(&mut self, entry: Entry) {
        self.bytes += size(&entry);
        self.entries.push_back(entry);
        self.trim();
    }

    /// The entries that were pushed last are in the write of this number.
    pub fn appended(&mut self, number: u64) {
        let last = self.entries.back().map_or(self.written, |e| e.index);
        self.appends.push_back((number, last));
    }

    /// All writes up to this number are done.
    pub fn written(&mut self, number: u64) {
        while let Some((_, last)) = self.appends.front().filter(|(n, _)| *n <= number) {
            self.written = self.written.max(*last);
            self.appends.pop_front();
        }
        self.trim();
    }

    /// This and everything before it comes from the disk.
    pub fn stored(&mut self, index: u64) {
        self.written = self.written.max(index);
        self.trim();
    }

    /// Entries from `index` on are no longer in the log.
    pub fn cut_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|e| e.index >= index) {
            if let Some(gone) = self.entries.pop_back() {
                self.bytes -= size(&gone);
            }
        }
        // A write that is still on its way brings entries that have been replaced since.
        self.written = self.written.min(index - 1);
        self.appends.iter_mut().for_each(|(_, last)| *last = (*last).min(index - 1));
    }

    /// Entries up to `index` are not needed any more.
    pub fn forget_to(&mut self, index: u64) {
        while self.entries.front().is_some_and(|e| e.index <= index) {
            if let Some(gone) = self.entries.pop_front() {
                self.bytes -= size(&gone);
            }
        }
    }

    /// Index of the first entry in memory.
    pub fn first(&self) -> Option<u64> {
        self.entries.front().map(|e| e.index)
    }

    /// An entry, if it is in memory.
    pub fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.first()?)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    fn trim(&mut self) {
        let on_disk = |entry: &Entry| entry.index <= self.written;
        while self.bytes > BYTES
            && self.entries.len() > 1
            && self.entries.front().is_some_and(on_disk)
        {
            let Some(old) = self.entries.pop_front() else { break };
            self.bytes -= size(&old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(tail: &mut Tail, index: u64, term: u64) {
        let data = vec![7; BYTES / 2].into();
        tail.push(Entry { index, term, data, ..Entry::default() });
    }

    #[test]
    fn what_is_not_on_the_disk_stays_in_memory() {
        let mut tail = Tail::behind(1);
        for index in 2..=9 {
            push(&mut tail, index, 1);
            tail.appended(index);
        }
        assert_eq!(tail.first(), Some(2), "nothing is written");
        tail.written(5);
        assert_eq!(tail.first(), Some(6));
        tail.written(9);
        assert_eq!((tail.first(), tail.get(9).map(|e| e.index)), (Some(9), Some(9)));
        assert!(tail.get(8).is_none() && tail.get(10).is_none());
    }

    #[test]
    fn a_late_write_of_replaced_entries_does_not_count_for_their_successors() {
        let mut tail = Tail::behind(1);
        (2..=5).for_each(|index| push(&mut tail, index, 1));
        tail.appended(1);
        tail.cut_from(3);
        (3..=8).for_each(|index| push(&mut tail, index, 2));
        tail.appended(2);
        tail.written(1);
        assert_eq!(tail.first(), Some(3), "only the second entry is on the disk as it is now");
        tail.written(2);
        assert_eq!(tail.get(8).map(|e| e.term), Some(2));
        assert_eq!(tail.first(), Some(8));
    }

    #[test]
    fn what_was_stored_once_is_not_when_it_is_replaced() {
        let mut tail = Tail::behind(1);
        (2..=6).for_each(|index| push(&mut tail, index, 1));
        tail.stored(6);
        tail.cut_from(4);
        assert!(tail.get(4).is_none());
        (4..=8).for_each(|index| push(&mut tail, index, 2));
        assert_eq!(tail.first(), Some(4));
    }
}

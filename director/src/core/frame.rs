//! A frame in the chunk of memory it lies in, and what becomes of it.

use super::reason::DropReason;

/// An Ethernet frame inside a larger chunk of memory. The core rewrites it in place and may change
/// its length within the chunk (answers are built where the question lay); it never moves its
/// beginning.
#[derive(Debug)]
pub struct Frame<'a> {
    chunk: &'a mut [u8],
    offset: usize,
    len: usize,
}

impl<'a> Frame<'a> {
    /// The frame of `len` bytes at `offset` of `chunk`. What lies outside the chunk is cut off.
    #[inline]
    pub fn new(chunk: &'a mut [u8], offset: usize, len: usize) -> Frame<'a> {
        let offset = offset.min(chunk.len());
        let len = len.min(chunk.len() - offset);
        Frame { chunk, offset, len }
    }

    /// The frame's bytes.
    #[inline]
    pub fn packet(&self) -> &[u8] {
        self.chunk.get(self.offset..self.offset + self.len).unwrap_or(&[])
    }

    /// The frame's bytes, to be rewritten.
    #[inline]
    pub fn packet_mut(&mut self) -> &mut [u8] {
        self.chunk.get_mut(self.offset..self.offset + self.len).unwrap_or(&mut [])
    }

    /// Where the frame begins in its chunk.
    #[inline]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes of the frame.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // an empty frame is just a malformed one
    pub fn len(&self) -> usize {
        self.len
    }

    /// Changes the length; bytes that are new to the frame hold whatever the chunk held. False: the
    /// chunk ends before that, and nothing has changed.
    #[must_use]
    pub fn resize(&mut self, len: usize) -> bool {
        let fits = len <= self.chunk.len() - self.offset;
        if fits {
            self.len = len;
        }
        fits
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Send it: it was rewritten in place, or an answer was built in its place.
    Transmit,
    /// Forget it; it is counted under this reason.
    Drop(DropReason),
    /// It was copied into the waiting room; the frame may be used for something else.
    Parked,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_stays_inside_its_chunk() {
        let mut chunk = [0u8; 10];
        let mut frame = Frame::new(&mut chunk, 4, 100);
        assert_eq!(frame.len(), 6);
        assert!(!frame.resize(7));
        assert!(frame.resize(3));
        assert_eq!(frame.packet_mut().len(), 3);
        assert_eq!(Frame::new(&mut chunk, 11, 1).packet(), b"");
    }
}

//! Packet memory shared with the kernel, cut into chunks of one size.
//!
//! A [`Chunk`] is the right to one piece of it. There is one per piece; lending a piece to the
//! kernel consumes the chunk, and only a piece that was lent can be reclaimed. So two chunks never
//! name the same bytes, whatever a descriptor says.

use super::error::XdpError;
use super::sys::Mapping;

/// The right to the bytes of one piece of the packet memory. Not to be copied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk(u32);

/// The packet memory of one worker.
#[derive(Debug)]
pub(crate) struct Umem {
    mapping: Mapping,
    chunk_bytes: u32,
    /// By chunk: whether the kernel has it.
    lent: Box<[bool]>,
}

impl Umem {
    /// Memory for `count` chunks of `chunk_bytes` (a power of two), and all of its chunks.
    pub(crate) fn new(count: u32, chunk_bytes: u32) -> Result<(Umem, Vec<Chunk>), XdpError> {
        assert!(chunk_bytes.is_power_of_two(), "AF_XDP's aligned mode needs a power of two");
        let bytes = count as usize * chunk_bytes as usize;
        let mapping =
            Mapping::anonymous(bytes).map_err(|source| XdpError::Memory { bytes, source })?;
        if let Err(e) = mapping.advise_huge_pages() {
            tracing::warn!(
                bytes,
                "no huge pages for the packet memory: {e}; forwarding works, a little slower \
                 (see /sys/kernel/mm/transparent_hugepage/enabled)"
            );
        }
        let lent = vec![false; count as usize].into_boxed_slice();
        Ok((Umem { mapping, chunk_bytes, lent }, (0..count).map(Chunk).collect()))
    }

    /// The memory itself, to be registered with a socket.
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// How many chunks there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u32 {
        self.lent.len() as u32
    }

    /// How large a chunk is.
    pub(crate) fn chunk_bytes(&self) -> u32 {
        self.chunk_bytes
    }

    /// The bytes of a chunk of this memory.
    #[inline]
    pub(crate) fn bytes<'a>(&'a self, chunk: &'a mut Chunk) -> &'a mut [u8] {
        let size = self.chunk_bytes as usize;
        let start = chunk.0 as usize * size;
        assert!(start + size <= self.mapping.length(), "a chunk of another memory");
        // SAFETY: the range lies inside the mapping (asserted), which lives as long as `self`. The
        // chunk is exclusively borrowed and the only one of its index (module documentation), and
        // the kernel does not have it, since lending consumes the chunk. Chunks never leave the
        // lane that owns their memory.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.address().as_ptr().add(start), size) }
    }

    /// Lends a chunk to the kernel; the address names its first byte.
    #[inline]
    pub(crate) fn lend(&mut self, chunk: Chunk) -> u64 {
        if let Some(lent) = self.lent.get_mut(chunk.0 as usize) {
            *lent = true;
        }
        u64::from(chunk.0) * u64::from(self.chunk_bytes)
    }

    /// Takes back the chunk that holds `address`, if it was lent, and where in it the address is.
    #[inline]
    pub(crate) fn reclaim(&mut self, address: u64) -> Option<(Chunk, usize)> {
        let index = usize::try_from(address / u64::from(self.chunk_bytes)).ok()?;
        let lent = self.lent.get_mut(index)?;
        if !std::mem::replace(lent, false) {
            return None;
        }
        Some((Chunk(index as u32), (address % u64::from(self.chunk_bytes)) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_either_ours_or_the_kernels() {
        let (mut umem, mut chunks) = Umem::new(4, 2048).unwrap();
        assert_eq!(umem.count(), 4);
        let mut third = chunks.remove(2);
        umem.bytes(&mut third)[0] = 7;
        assert!(umem.reclaim(2 * 2048).is_none(), "it was not lent");
        let address = umem.lend(third);
        assert_eq!(address, 2 * 2048);
        let (mut third, offset) = umem.reclaim(address + 256).unwrap();
        assert_eq!((umem.bytes(&mut third)[0], offset), (7, 256));
        assert!(umem.reclaim(address).is_none(), "reclaimed twice");
        assert!(umem.reclaim(4 * 2048).is_none(), "outside");
        assert!(umem.reclaim(u64::MAX).is_none(), "outside");
    }
}

//! An AF_XDP socket on one receive queue, in copy mode with wake-ups on demand.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::XdpError;
use super::interface::Interface;
use super::ring::{CompletionRing, FillRing, Layout, RxRing, TxRing};
use super::sys::{self, Mapping};
use super::umem::{Chunk, Umem};

/// `XDP_MAX_TX_SKB_BUDGET` of linux/if_xdp.h (Linux 6.18): packets sent by one wake-up.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// How many packets one wake-up may send; by default the kernel stops at 32.
const TX_BUDGET: u32 = 128;

/// Room for packets between our sending and the driver's completing; by default about 200 packets.
const SEND_BUFFER_BYTES: libc::c_int = 8 << 20;

/// How long a queue may stay busy after its last socket was closed.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);

/// How large a socket's memory is.
#[derive(Clone, Copy, Debug)]
pub struct SocketConfig {
    /// Chunks of packet memory, a power of two.
    pub chunks: u32,
    /// Size of a chunk, 2048 or 4096.
    pub chunk_bytes: u32,
}

impl SocketConfig {
    /// Entries of the receive, transmit and fill rings. Half of the chunks can wait for packets,
    /// the other half is for those being sent.
    fn ring_entries(self) -> u32 {
        self.chunks / 2
    }
}

/// What the kernel counts for a socket: `struct xdp_statistics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelStatistics {
    /// Dropped on receive for another reason than a full ring (too long for a chunk).
    pub rx_dropped: u64,
    /// Chunk addresses in the fill ring that made no sense.
    pub rx_invalid: u64,
    /// Descriptors in the transmit ring that made no sense.
    pub tx_invalid: u64,
    /// Dropped because the receive ring was full: the worker is too slow.
    pub rx_ring_full: u64,
    /// Dropped because the fill ring was empty: too many packets are being sent.
    pub fill_ring_empty: u64,
    /// Wake-ups that found nothing to send.
    pub tx_ring_empty: u64,
}

/// The packet memory and the rings of a socket, for the one worker that uses them.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) umem: Umem,
    /// All chunks, none of them lent.
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) fill: FillRing,
    pub(crate) completion: CompletionRing,
    pub(crate) rx: RxRing,
    pub(crate) tx: TxRing,
}

/// The socket itself: what is polled, kicked and asked for statistics, by any thread.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    queue: u32,
}

impl Socket {
    /// Opens a socket, registers new packet memory with it, and binds it to `queue`.
    pub(crate) fn open(
        interface: &Interface,
        queue: u32,
        config: SocketConfig,
    ) -> Result<(Socket, Rings), XdpError> {
        let failed = |what| move |source| XdpError::Socket { queue, what, source };
        let (umem, chunks) = Umem::new(config.chunks, config.chunk_bytes)?;
        // SAFETY: takes integers, creates a descriptor.
        let fd = sys::owned(unsafe {
            libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0)
        })
        .map_err(failed("creating it"))?;
        let socket = Socket { fd, queue };
        socket.register(&umem).map_err(failed("registering packet memory (XDP_UMEM_REG)"))?;
        let entries = config.ring_entries();
        for (option, size, what) in [
            (libc::XDP_UMEM_FILL_RING, entries, "making the fill ring"),
            // Room for every chunk, so that no completion is ever in want of it.
            (libc::XDP_UMEM_COMPLETION_RING, config.chunks, "making the completion ring"),
            (libc::XDP_RX_RING, entries, "making the receive ring"),
            (libc::XDP_TX_RING, entries, "making the transmit ring"),
        ] {
            socket.set(libc::SOL_XDP, option, &size).map_err(failed(what))?;
        }
        socket.raise_limits();
        let rings = socket.map_rings(config, umem, chunks).map_err(failed("mapping its rings"))?;
        socket.bind_patiently(interface).map_err(failed("binding it"))?;
        Ok((socket, rings))
    }

    /// The receive queue it is bound to.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    fn register(&self, umem: &Umem) -> io::Result<()> {
        let registration = libc::xdp_umem_reg {
            addr: umem.mapping().address().as_ptr() as u64,
            len: umem.mapping().length() as u64,
            chunk_size: umem.chunk_bytes(),
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        self.set(libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` is valid for reads of its size for the length of the call.
        sys::check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        })
        .map(drop)
    }

    /// A socket option whose type `T` is plain old data, for which all zeroes is a value.
    ///
    /// # Safety
    /// `T` must be such a type.
    unsafe fn get<T>(&self, level: libc::c_int, option: libc::c_int) -> io::Result<T> {
        // SAFETY: promised by the caller.
        let mut value: T = unsafe { std::mem::zeroed() };
        let mut length = size_of::<T>() as libc::socklen_t;
        // SAFETY: `value` and `length` are valid for writes for the length of the call.
        sys::check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                (&raw mut value).cast(),
                &raw mut length,
            )
        })?;
        if length as usize == size_of::<T>() {
            Ok(value)
        } else {
            Err(io::Error::other("the kernel is too old: it answers in a shorter form"))
        }
    }

    /// Limits whose failure costs speed only.
    fn raise_limits(&self) {
        let forced = self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER_BYTES);
        if forced
            .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER_BYTES))
            .is_err()
        {
            tracing::debug!(queue = self.queue, "the send buffer keeps its default size");
        }
        if self.set(libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &TX_BUDGET).is_err() {
            tracing::debug!(
                queue = self.queue,
                "this kernel sends 32 packets a wake-up at the most"
            );
        }
    }

    fn map_rings(&self, config: SocketConfig, umem: Umem, chunks: Vec<Chunk>) -> io::Result<Rings> {
        // SAFETY: xdp_mmap_offsets consists of integers.
        let offsets: libc::xdp_mmap_offsets =
            unsafe { self.get(libc::SOL_XDP, libc::XDP_MMAP_OFFSETS) }?;
        let map = |of: &libc::xdp_ring_offset, entries: u32, entry: usize, page: i64| {
            let layout = Layout {
                producer: of.producer as usize,
                consumer: of.consumer as usize,
                flags: of.flags as usize,
                entries: of.desc as usize,
            };
            let bytes = layout.entries + entries as usize * entry;
            Mapping::shared(self.fd.as_fd(), bytes, page).map(|m| (Arc::new(m), layout))
        };
        let half = config.ring_entries();
        let packet = size_of::<super::ring::Descriptor>();
        let (memory, layout) = map(&offsets.fr, half, 8, libc::XDP_UMEM_PGOFF_FILL_RING as i64)?;
        let fill = FillRing::new(memory, layout, half)?;
        let (memory, layout) =
            map(&offsets.cr, config.chunks, 8, libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64)?;
        let completion = CompletionRing::new(memory, layout, config.chunks)?;
        let (memory, layout) = map(&offsets.rx, half, packet, libc::XDP_PGOFF_RX_RING)?;
        let rx = RxRing::new(memory, layout, half)?;
        let (memory, layout) = map(&offsets.tx, half, packet, libc::XDP_PGOFF_TX_RING)?;
        let tx = TxRing::new(memory, layout, half)?;
        Ok(Rings { umem, chunks, fill, completion, rx, tx })
    }

    /// The kernel lets go of a closed socket's queue a little later (xp_release_deferred), so a
    /// daemon that is started again at once may find it busy for a moment.
    fn bind_patiently(&self, interface: &Interface) -> io::Result<()> {
        let deadline = Instant::now() + RELEASE_PATIENCE;
        loop {
            match self.bind(interface) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }

    fn bind(&self, interface: &Interface) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_COPY | libc::XDP_USE_NEED_WAKEUP,
            sxdp_ifindex: interface.index(),
            sxdp_queue_id: self.queue,
            sxdp_shared_umem_fd: 0,
        };
        // SAFETY: `address` is a valid sockaddr_xdp for the length of the call.
        sys::check(unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
            )
        })
        .map(drop)
    }

    /// Tells the kernel to send what is in the transmit ring. Does not wait.
    pub(crate) fn kick(&self) -> io::Result<()> {
        // SAFETY: no buffer and no address are passed.
        let result = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The error that the socket reports, taken from it; none: there was none.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        // SAFETY: an integer.
        match unsafe { self.get::<libc::c_int>(libc::SOL_SOCKET, libc::SO_ERROR) } {
            Ok(0) => None,
            Ok(number) => Some(io::Error::from_raw_os_error(number)),
            Err(e) => Some(e),
        }
    }

    /// What the kernel counted for this socket.
    pub fn statistics(&self) -> io::Result<KernelStatistics> {
        // SAFETY: xdp_statistics consists of integers.
        let kernel: libc::xdp_statistics =
            unsafe { self.get(libc::SOL_XDP, libc::XDP_STATISTICS) }?;
        Ok(KernelStatistics {
            rx_dropped: kernel.rx_dropped,
            rx_invalid: kernel.rx_invalid_descs,
            tx_invalid: kernel.tx_invalid_descs,
            rx_ring_full: kernel.rx_ring_full,
            fill_ring_empty: kernel.rx_fill_ring_empty_descs,
            tx_ring_empty: kernel.tx_ring_empty_descs,
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

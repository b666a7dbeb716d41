//! AF_XDP: a thin layer over the kernel's own objects, on libc alone.
//!
//! [`Steering`] is the XDP program and its maps, [`Socket`] an AF_XDP socket bound to one receive
//! queue, `Umem` the packet memory it shares with the kernel, and `ring` the four rings between
//! the two. [`Interface`] asks and tells the network interface what is needed for it.
//!
//! This module and the worker's system calls are the only places in this crate with `unsafe`.

mod error;
mod ethtool;
mod interface;
pub(crate) mod ring;
mod socket;
mod steer;
pub(crate) mod sys;
pub(crate) mod umem;

pub use error::XdpError;
pub use interface::Interface;
pub(crate) use socket::Rings;
pub use socket::{KernelStatistics, Socket, SocketConfig};
pub use steer::{AttachedMode, MAX_ADDRESSES, MAX_QUEUES, SteerCounters, Steering};
pub(crate) use sys::lift_memlock_limit;
pub use sys::monotonic_ns;

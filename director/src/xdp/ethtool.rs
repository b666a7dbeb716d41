//! The few ethtool requests that are needed, by ioctl. linux/ethtool.h, linux/sockios.h.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::sys;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// `struct ethtool_value`.
#[repr(C)]
#[derive(Default)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// Requests about one interface.
pub(super) struct Request {
    control: Arc<OwnedFd>,
    request: libc::ifreq,
}

/// A socket for requests. It belongs to the network namespace of the thread that opens it, and so
/// do the requests, whichever thread makes them.
pub(super) fn control_socket() -> io::Result<Arc<OwnedFd>> {
    // SAFETY: takes integers, creates a descriptor.
    sys::owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })
        .map(Arc::new)
}

impl Request {
    /// For the interface `name` of the control socket's network namespace.
    pub(super) fn new(control: &Arc<OwnedFd>, name: &str) -> io::Result<Request> {
        if name.len() >= libc::IFNAMSIZ || name.is_empty() || name.contains('\0') {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        // SAFETY: ifreq is plain old data, for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        Ok(Request { control: control.clone(), request })
    }

    fn call(&mut self, number: libc::c_ulong) -> io::Result<()> {
        // SAFETY: `request` is a valid ifreq; where the kernel follows a pointer in it
        // (SIOCETHTOOL), `ethtool` has set it to a value that outlives this call.
        sys::check(unsafe {
            libc::ioctl(self.control.as_raw_fd(), number as _, &raw mut self.request)
        })
        .map(drop)
    }

    /// An ethtool request whose argument is `T`, one of the `repr(C)` structs of this file.
    fn ethtool<T>(&mut self, value: &mut T) -> io::Result<()> {
        self.request.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
        self.call(SIOCETHTOOL)
    }

    /// The interface's number.
    pub(super) fn index(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFINDEX as _)?;
        // SAFETY: SIOCGIFINDEX fills this member.
        Ok(unsafe { self.request.ifr_ifru.ifru_ifindex }.cast_unsigned())
    }

    /// The interface's flags (`IFF_UP` and so on).
    pub(super) fn flags(&mut self) -> io::Result<i32> {
        self.call(libc::SIOCGIFFLAGS as _)?;
        // SAFETY: SIOCGIFFLAGS fills this member.
        Ok(i32::from(unsafe { self.request.ifr_ifru.ifru_flags }))
    }

    /// The interface's MTU.
    pub(super) fn mtu(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFMTU as _)?;
        // SAFETY: SIOCGIFMTU fills this member.
        Ok(unsafe { self.request.ifr_ifru.ifru_mtu }.max(0).cast_unsigned())
    }

    /// How many receive queues are in use.
    pub(super) fn receive_queues(&mut self) -> io::Result<u32> {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        self.ethtool(&mut channels)?;
        Ok(channels.rx.max(channels.combined))
    }

    /// Whether received packets are merged by the kernel (GRO).
    pub(super) fn gro(&mut self) -> io::Result<bool> {
        let mut value = Value { command: ETHTOOL_GGRO, data: 0 };
        self.ethtool(&mut value)?;
        Ok(value.data != 0)
    }

    pub(super) fn set_gro(&mut self, on: bool) -> io::Result<()> {
        self.ethtool(&mut Value { command: ETHTOOL_SGRO, data: u32::from(on) })
    }

    /// Whether received packets are merged by the device (LRO).
    pub(super) fn lro(&mut self) -> io::Result<bool> {
        let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
        self.ethtool(&mut value)?;
        Ok(value.data & ETH_FLAG_LRO != 0)
    }

    pub(super) fn set_lro(&mut self, on: bool) -> io::Result<()> {
        let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
        self.ethtool(&mut value)?;
        value.command = ETHTOOL_SFLAGS;
        value.data = if on { value.data | ETH_FLAG_LRO } else { value.data & !ETH_FLAG_LRO };
        self.ethtool(&mut value)
    }
}

//! The TUN device that carries the announced routes. It is not persistent: it lives exactly as
//! long as the descriptor, which is the point of it.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A TUN device that is up. Dropping it removes the device and every route on it.
pub struct Tun {
    _file: File,
    ifindex: u32,
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain old data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` is no device name: 1 to {} bytes", request.ifr_name.len() - 1),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

impl Tun {
    /// Makes the device and brings it up. `EBUSY` means that another process holds one of that name.
    pub fn create(name: &str) -> io::Result<Tun> {
        let mut tun = request(name)?;
        tun.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which `tun` is, and which outlives the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut tun) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let mut up = request(name)?;
        up.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        // SAFETY: SIOCSIFFLAGS reads one ifreq, which `up` is, and which outlives the call.
        if unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &up) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let ifindex = nix::net::if_::if_nametoindex(name)?;
        Ok(Tun { _file: file, ifindex })
    }

    /// The kernel's index of the device.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_fit_are_refused_before_the_kernel_sees_them() {
        for name in ["", "a-name-that-is-far-too-long"] {
            let Err(error) = Tun::create(name) else { panic!("{name} was accepted") };
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}

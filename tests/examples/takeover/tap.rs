//! The router's end of a link: frames are sent into it, and everything that goes over it is seen, with
//! the kernel's timestamps. Nobody has to be awake when a frame comes.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
    recvmsg, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

/// Room (bytes) for what is seen between two looks; the link carries more than is measured.
const ROOM: usize = 16 << 20;

/// Both ends of a link by their hardware addresses, and two raw sockets on ours.
pub struct Tap {
    /// The far end's.
    pub far_mac: [u8; 6],
    /// Ours.
    pub mac: [u8; 6],
    // The kernel does not show a socket what it has sent itself.
    sender: OwnedFd,
    watcher: OwnedFd,
}

/// A frame that went by.
pub struct Seen {
    /// When (ns of the wall clock).
    pub at_ns: i64,
    /// Towards the far end.
    pub outgoing: bool,
    /// The frame.
    pub bytes: Vec<u8>,
}

impl Tap {
    /// On an interface of the calling thread's network namespace.
    pub fn open(interface: &str, far_mac: [u8; 6]) -> Result<Tap> {
        let address = getifaddrs()?
            .filter(|i| i.interface_name == interface)
            .find_map(|i| i.address?.as_link_addr().copied())
            .with_context(|| format!("there is no interface {interface}"))?;
        let raw = |protocol: Option<SockProtocol>| -> Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)
                .context("a raw socket (it needs root)")?;
            bind(fd.as_raw_fd(), &address).with_context(|| format!("binding to {interface}"))?;
            Ok(fd)
        };
        let watcher = raw(Some(SockProtocol::EthAll))?;
        setsockopt(&watcher, sockopt::RcvBufForce, &ROOM)?;
        setsockopt(&watcher, sockopt::ReceiveTimestampns, &true)?;
        let mac = address.addr().with_context(|| format!("{interface} has no address"))?;
        Ok(Tap { far_mac, mac, sender: raw(None)?, watcher })
    }

    /// Sends a frame to the far end.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.sender.as_raw_fd(), frame, MsgFlags::empty()).context("sending a frame")?;
        Ok(())
    }

    /// What has gone by since the last look.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        let mut all = Vec::new();
        let mut buffer = [0; 256];
        let mut control = nix::cmsg_space!(TimeSpec);
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let fd = self.watcher.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = match recvmsg::<LinkAddr>(fd, &mut parts, Some(&mut control), flags) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(all),
                Err(error) => return Err(error).context("looking at a link"),
            };
            let at = message.cmsgs()?.find_map(|c| match c {
                ControlMessageOwned::ScmTimestampns(at) => Some(at),
                _ => None,
            });
            let at = at.context("the kernel gives no timestamps")?;
            let outgoing = message.address.is_some_and(|a| a.pkttype() == OUTGOING);
            let length = message.bytes;
            all.push(Seen {
                at_ns: at.tv_sec() * 1_000_000_000 + at.tv_nsec(),
                outgoing,
                bytes: buffer[..length].to_vec(),
            });
        }
    }
}

/// `PACKET_OUTGOING` of packet(7).
const OUTGOING: u8 = 4;

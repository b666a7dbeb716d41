//! A network interface, as far as XDP cares about it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::error::XdpError;
use super::ethtool::{Request, control_socket};

/// Ethernet header, and a VLAN tag that a card may have left in.
const LINK_HEADER: u32 = 18;

/// What the kernel keeps free in front of every received packet (XDP_PACKET_HEADROOM).
const KERNEL_HEADROOM: u32 = 256;

/// A network interface of the network namespace it was looked up in.
#[derive(Clone, Debug)]
pub struct Interface {
    name: String,
    index: u32,
    control: Arc<OwnedFd>,
}

impl Interface {
    /// Looks an interface up and refuses what cannot carry an AF_XDP socket.
    pub fn usable(name: &str) -> Result<Interface, XdpError> {
        let failed = |what, source| XdpError::Query { interface: name.to_owned(), what, source };
        let control = control_socket().map_err(|e| failed("opening a socket for requests", e))?;
        let index = Request::new(&control, name).and_then(|mut r| r.index());
        let index = index.map_err(|e| match e.raw_os_error() {
            Some(libc::ENODEV) => XdpError::NoInterface { interface: name.to_owned() },
            _ => failed("looking it up", e),
        })?;
        let interface = Interface { name: name.to_owned(), index, control };
        let flags = interface.ask("reading its flags", Request::flags)?;
        if let Some(role) = bond_role(flags) {
            return Err(XdpError::Bond { interface: name.to_owned(), role });
        }
        if flags & libc::IFF_UP == 0 {
            return Err(XdpError::InterfaceDown { interface: name.to_owned() });
        }
        Ok(interface)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn index(&self) -> u32 {
        self.index
    }

    fn ask<T>(
        &self,
        what: &'static str,
        question: impl FnOnce(&mut Request) -> io::Result<T>,
    ) -> Result<T, XdpError> {
        Request::new(&self.control, &self.name)
            .and_then(|mut request| question(&mut request))
            .map_err(|source| XdpError::Query { interface: self.name.clone(), what, source })
    }

    /// How many receive queues it has; none: its driver does not say.
    pub fn receive_queues(&self) -> Option<u32> {
        self.ask("counting its queues", Request::receive_queues).ok().filter(|n| *n > 0)
    }

    /// The smallest chunk of packet memory that takes its packets.
    pub fn chunk_bytes(&self) -> Result<u32, XdpError> {
        let mtu = self.ask("reading its MTU", Request::mtu)?;
        chunk_bytes(mtu).map_err(|most| XdpError::MtuTooLarge {
            interface: self.name.clone(),
            mtu,
            most,
        })
    }

    /// Stops the merging of received packets (GRO, LRO): AF_XDP cannot take merged ones.
    /// Says which of the two it has turned off, so that they can be turned on again.
    pub(super) fn stop_merging(&self) -> Merging {
        let mut was = Merging::default();
        let warn = |feature: &str, e: &XdpError| {
            tracing::warn!(
                interface = self.name,
                "{e}; merged packets are dropped in SKB mode, bulk TCP would crawl: \
                 turn it off with `ethtool -K {} {feature} off`",
                self.name
            );
        };
        match self.ask("asking for GRO", Request::gro) {
            Ok(false) => {}
            Ok(true) => match self.ask("turning GRO off", |r| r.set_gro(false)) {
                Ok(()) => was.gro = true,
                Err(e) => warn("gro", &e),
            },
            Err(e) => warn("gro", &e),
        }
        // A driver without LRO says that it is off; one that cannot even say has none.
        if let Ok(true) = self.ask("asking for LRO", Request::lro) {
            match self.ask("turning LRO off", |r| r.set_lro(false)) {
                Ok(()) => was.lro = true,
                Err(e) => warn("lro", &e),
            }
        }
        was
    }

    /// Turns on again what [`Interface::stop_merging`] turned off.
    pub(super) fn resume_merging(&self, was: Merging) {
        let say = |e: XdpError| tracing::warn!("left off on `{}`: {e}", self.name);
        if was.gro {
            let _ = self.ask("turning GRO on again", |r| r.set_gro(true)).map_err(say);
        }
        if was.lro {
            let _ = self.ask("turning LRO on again", |r| r.set_lro(true)).map_err(say);
        }
    }

    /// Whether received packets may be merged (GRO or LRO).
    pub fn merges(&self) -> Result<bool, XdpError> {
        let gro = self.ask("asking for GRO", Request::gro)?;
        Ok(gro || self.ask("asking for LRO", Request::lro).unwrap_or(false))
    }
}

/// Which kinds of merging were turned off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Merging {
    gro: bool,
    lro: bool,
}

/// Which part the interface with these flags has in a bond, if it has one.
fn bond_role(flags: i32) -> Option<&'static str> {
    if flags & libc::IFF_MASTER != 0 {
        Some("a bond (or another master of interfaces)")
    } else if flags & libc::IFF_SLAVE != 0 {
        Some("part of a bond")
    } else {
        None
    }
}

/// The smallest chunk for an MTU, or the largest MTU that fits any.
fn chunk_bytes(mtu: u32) -> Result<u32, u32> {
    let most = |chunk: u32| chunk - KERNEL_HEADROOM - LINK_HEADER;
    // A chunk may not be larger than a page (xdp_umem_reg).
    [2048, 4096].into_iter().find(|chunk| mtu <= most(*chunk)).ok_or(most(4096))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_follow_the_mtu() {
        assert_eq!(chunk_bytes(1500), Ok(2048));
        assert_eq!(chunk_bytes(1774), Ok(2048));
        assert_eq!(chunk_bytes(1775), Ok(4096));
        assert_eq!(chunk_bytes(9000), Err(3822));
    }

    #[test]
    fn bonds_and_their_parts_are_told_by_their_flags() {
        let up = libc::IFF_UP | libc::IFF_RUNNING;
        assert_eq!(bond_role(up), None);
        assert!(bond_role(up | libc::IFF_MASTER).is_some_and(|role| role.contains("a bond")));
        assert_eq!(bond_role(up | libc::IFF_SLAVE), Some("part of a bond"));
    }

    #[test]
    fn a_missing_interface_is_named_with_the_remedy() {
        let error = Interface::usable("hf-no-such-if").unwrap_err().to_string();
        assert!(error.contains("hf-no-such-if") && error.contains("ip -br link"), "{error}");
    }
}

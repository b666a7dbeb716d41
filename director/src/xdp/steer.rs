//! The XDP program that steers frames to the sockets, its maps, and its attachment.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{HashMap, Map, MapData, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpMode as AyaMode;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader};
use holdfast_schema::config::XdpMode;
use holdfast_schema::flow::Addr;

use super::error::XdpError;
use super::interface::{Interface, Merging};
use super::socket::Socket;

/// The compiled `bpf/steer.bpf.c`.
static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// The most VIPs and LIPs together; as in `bpf/steer.bpf.c`.
pub const MAX_ADDRESSES: usize = 16_384;

/// The most queues; as in `bpf/steer.bpf.c`.
pub const MAX_QUEUES: u32 = 256;

/// Value of a VIP in the map of addresses.
const KIND_VIP: u32 = 1;
/// Value of a LIP in the map of addresses.
const KIND_LIP: u32 = 2;

/// How the program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    /// By the driver.
    Native,
    /// By the kernel, behind the driver: slower.
    Skb {
        /// Why not native.
        reason: String,
    },
}

/// What the program has counted, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounters {
    /// Frames given to the kernel.
    pub passed: u64,
    /// Frames for a VIP or LIP, given to a socket. (What the socket had no room for is counted there.)
    pub redirected: u64,
    /// Frames for a VIP or LIP on a queue without a socket, dropped.
    pub dropped_no_socket: u64,
    /// Frames too short for their own headers, dropped.
    pub dropped_malformed: u64,
    /// Frames for a VIP or LIP behind a VLAN tag, dropped.
    pub dropped_vlan: u64,
}

/// The loaded program. Detached when dropped, or by the kernel when the process is gone.
pub struct Steering {
    // Dropped in this order: the link first, so that the program never runs without its maps.
    link: Option<FdLink>,
    restore: Option<(Interface, Merging)>,
    ebpf: Ebpf,
    addresses: HashMap<MapData, [u8; 16], u32>,
    installed: BTreeMap<Addr, u32>,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steering")
            .field("attached", &self.link.is_some())
            .field("addresses", &self.installed.len())
            .finish_non_exhaustive()
    }
}

/// Takes a map out of the object. It is there: the object is part of this binary.
fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, XdpError>
where
    T: TryFrom<Map>,
    T::Error: std::fmt::Display,
{
    let map = ebpf
        .take_map(name)
        .ok_or(XdpError::Map { map: name, reason: "not in the compiled program".to_owned() })?;
    T::try_from(map).map_err(|e| XdpError::Map { map: name, reason: e.to_string() })
}

impl Steering {
    /// Loads the program into the kernel. It is not attached yet.
    pub fn load() -> Result<Steering, XdpError> {
        let failed = |e: &dyn std::error::Error| XdpError::Load { reason: chain(e) };
        let mut ebpf = EbpfLoader::new().load(PROGRAM).map_err(|e| failed(&e))?;
        let (addresses, sockets, counters) = (
            take(&mut ebpf, "addresses")?,
            take(&mut ebpf, "sockets")?,
            take(&mut ebpf, "counters")?,
        );
        let mut steering = Steering {
            link: None,
            restore: None,
            ebpf,
            addresses,
            installed: BTreeMap::new(),
            sockets,
            counters,
        };
        steering.program()?.load().map_err(|e| failed(&e))?;
        Ok(steering)
    }

    fn program(&mut self) -> Result<&mut Xdp, XdpError> {
        let missing = || XdpError::Load { reason: "the object has no program `steer`".to_owned() };
        let program = self.ebpf.program_mut("steer").ok_or_else(missing)?;
        program.try_into().map_err(|e: ProgramError| XdpError::Load { reason: e.to_string() })
    }

    /// Replaces the steered addresses. New ones come before old ones go.
    pub fn set_addresses(
        &mut self,
        vips: impl IntoIterator<Item = Addr>,
        lips: impl IntoIterator<Item = Addr>,
    ) -> Result<(), XdpError> {
        let mut wanted: BTreeMap<Addr, u32> = lips.into_iter().map(|a| (a, KIND_LIP)).collect();
        wanted.extend(vips.into_iter().map(|a| (a, KIND_VIP)));
        if wanted.len() > MAX_ADDRESSES {
            return Err(XdpError::TooManyAddresses { wanted: wanted.len(), most: MAX_ADDRESSES });
        }
        let failed =
            |e: &dyn std::error::Error| XdpError::Map { map: "addresses", reason: chain(e) };
        // Old and new together may not fit; then, and only then, the old ones make room first.
        let remove_first = wanted.len() + self.installed.len() > MAX_ADDRESSES;
        if remove_first {
            self.remove_unwanted(&wanted)?;
        }
        for (address, kind) in &wanted {
            if self.installed.get(address) != Some(kind) {
                self.addresses.insert(address.0, kind, 0).map_err(|e| failed(&e))?;
                self.installed.insert(*address, *kind);
            }
        }
        self.remove_unwanted(&wanted)
    }

    fn remove_unwanted(&mut self, wanted: &BTreeMap<Addr, u32>) -> Result<(), XdpError> {
        let gone: Vec<Addr> =
            self.installed.keys().filter(|a| !wanted.contains_key(a)).copied().collect();
        for address in gone {
            self.addresses
                .remove(&address.0)
                .map_err(|e| XdpError::Map { map: "addresses", reason: chain(&e) })?;
            self.installed.remove(&address);
        }
        Ok(())
    }

    /// From now on frames of the socket's queue go to it.
    pub fn add_socket(&mut self, socket: &Socket) -> Result<(), XdpError> {
        self.sockets
            .set(socket.queue(), socket.as_fd().as_raw_fd(), 0)
            .map_err(|e| XdpError::Map { map: "sockets", reason: chain(&e) })
    }

    /// Frames of this queue for a VIP or a LIP are dropped from now on.
    pub fn remove_socket(&mut self, queue: u32) -> Result<(), XdpError> {
        self.sockets.unset(queue).map_err(|e| XdpError::Map { map: "sockets", reason: chain(&e) })
    }

    /// Attaches the program; in `Auto` mode by the driver, or else by the kernel.
    pub fn attach(
        &mut self,
        interface: &Interface,
        mode: XdpMode,
    ) -> Result<AttachedMode, XdpError> {
        let reason = match mode {
            XdpMode::Skb => "the node file says so".to_owned(),
            XdpMode::Native | XdpMode::Auto => match self.attach_as(interface, AyaMode::Driver) {
                Ok(()) => return Ok(AttachedMode::Native),
                Err(XdpError::Attach { reason, .. }) if mode == XdpMode::Auto => reason,
                Err(e) => return Err(e),
            },
        };
        self.attach_as(interface, AyaMode::Skb)?;
        self.restore = Some((interface.clone(), interface.stop_merging()));
        tracing::warn!(
            interface = interface.name(),
            "XDP is attached in SKB mode, which is slower than native: {reason}"
        );
        Ok(AttachedMode::Skb { reason })
    }

    fn attach_as(&mut self, interface: &Interface, mode: AyaMode) -> Result<(), XdpError> {
        let name = || interface.name().to_owned();
        let mode_name = if mode == AyaMode::Skb { "SKB" } else { "native" };
        let program = self.program()?;
        let id = program.attach_to_if_index(interface.index(), mode).map_err(|e| {
            match os_error(&e) {
                // EEXIST: a program is attached in the other mode; EBUSY: in this one.
                Some(libc::EBUSY | libc::EEXIST) => XdpError::Occupied { interface: name() },
                number => XdpError::Attach {
                    interface: name(),
                    mode: mode_name,
                    reason: explain(number, &e),
                },
            }
        })?;
        let link = program.take_link(id).map_err(|e| XdpError::Attach {
            interface: name(),
            mode: mode_name,
            reason: chain(&e),
        })?;
        let link = FdLink::try_from(link).map_err(|_| XdpError::NoLink { interface: name() })?;
        self.link = Some(link);
        Ok(())
    }

    /// What the program has counted since it was loaded.
    pub fn counters(&self) -> Result<SteerCounters, XdpError> {
        let sum = |index: u32| -> Result<u64, XdpError> {
            let values = self
                .counters
                .get(&index, 0)
                .map_err(|e| XdpError::Map { map: "counters", reason: chain(&e) })?;
            Ok(values.iter().sum())
        };
        Ok(SteerCounters {
            passed: sum(0)?,
            redirected: sum(1)?,
            dropped_no_socket: sum(2)?,
            dropped_malformed: sum(3)?,
            dropped_vlan: sum(4)?,
        })
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        self.link = None;
        if let Some((interface, merging)) = self.restore.take() {
            interface.resume_merging(merging);
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The number of the operating system's error at the root of `error`.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(e) = cause {
        if let Some(number) = e.downcast_ref::<std::io::Error>().and_then(|e| e.raw_os_error()) {
            return Some(number);
        }
        cause = e.source();
    }
    None
}

/// The kernel's answer in words, where its number says more than its text.
fn explain(number: Option<i32>, error: &dyn std::error::Error) -> String {
    match number {
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP".to_owned(),
        Some(libc::ERANGE) => {
            "the MTU of the interface (or of its veth peer) is too large for native XDP".to_owned()
        }
        Some(libc::EPERM) => format!("not permitted; {}", "CAP_NET_ADMIN and CAP_BPF are needed"),
        _ => chain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_program() {
        let source = include_str!("../../bpf/steer.bpf.c");
        assert!(source.contains(&format!("#define MAX_ADDRESSES {MAX_ADDRESSES}\n")));
        assert!(source.contains(&format!("#define MAX_QUEUES {MAX_QUEUES}\n")));
    }
}

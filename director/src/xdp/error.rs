//! What can go wrong between Holdfast and the kernel's XDP, with the remedy.

use std::io;

/// Why XDP could not be set up on an interface.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// There is no such interface in this network namespace.
    #[error(
        "interface `{interface}`: there is none of this name in this network namespace; \
         `ip -br link` lists them, the node file's `interface` names it"
    )]
    NoInterface {
        /// The interface.
        interface: String,
    },
    /// The interface is down.
    #[error(
        "interface `{interface}` is down, an AF_XDP socket cannot be bound to it; \
         `ip link set {interface} up`"
    )]
    InterfaceDown {
        /// The interface.
        interface: String,
    },
    /// Bonds are refused until they are supported.
    #[error(
        "interface `{interface}` is {role}: XDP on bonds is not supported yet; \
         name an interface that is in no bond, or take the bond apart"
    )]
    Bond {
        /// The interface.
        interface: String,
        /// Its part in the bond.
        role: &'static str,
    },
    /// Fewer receive queues than workers.
    #[error(
        "interface `{interface}` has {has} receive queue(s) but {wanted} worker(s) are configured; \
         lower `workers` in the node file, or raise the queues with \
         `ethtool -L {interface} combined {wanted}`"
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
        /// Its receive queues.
        has: u32,
        /// The workers that were configured.
        wanted: u32,
    },
    /// A number of workers that cannot be.
    #[error("{workers} workers: between 1 and {most} are possible; see `workers` in the node file")]
    WorkerCount {
        /// The workers that were configured.
        workers: u32,
        /// The most there can be.
        most: u32,
    },
    /// A packet of this MTU does not fit into a frame.
    #[error(
        "interface `{interface}` has an MTU of {mtu}, the most that fits into a frame is {most}; \
         `ip link set {interface} mtu {most}` (or less)"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The largest possible one.
        most: u32,
    },
    /// A system call on the interface failed.
    #[error("interface `{interface}`: {what} failed: {source}{}", remedy(source))]
    Query {
        /// The interface.
        interface: String,
        /// What was asked of it.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another XDP program is there.
    #[error(
        "interface `{interface}` has an XDP program of somebody else (or of a daemon that still runs); \
         `ip -details link show {interface}` names it, `ip link set {interface} xdp off` removes \
         one that is not held by a process"
    )]
    Occupied {
        /// The interface.
        interface: String,
    },
    /// Attaching failed.
    #[error("interface `{interface}`: attaching the XDP program in {mode} mode failed: {reason}")]
    Attach {
        /// The interface.
        interface: String,
        /// "native" or "SKB".
        mode: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel has no BPF links for XDP.
    #[error(
        "interface `{interface}`: this kernel attaches XDP programs only in the old way, where the \
         program outlives the process; Linux 5.9 or newer is needed"
    )]
    NoLink {
        /// The interface.
        interface: String,
    },
    /// Loading the program or its maps failed.
    #[error("loading the XDP program failed: {reason}; {REMEDY_PRIVILEGE}")]
    Load {
        /// What the kernel or the loader said.
        reason: String,
    },
    /// A map of the program could not be used.
    #[error("XDP map `{map}`: {reason}")]
    Map {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// More VIPs and LIPs than the program's map holds.
    #[error("{wanted} VIPs and LIPs, but the XDP program holds {most} at the most")]
    TooManyAddresses {
        /// VIPs and LIPs together.
        wanted: usize,
        /// The most there can be.
        most: usize,
    },
    /// An AF_XDP socket could not be set up.
    #[error("AF_XDP socket on queue {queue}: {what} failed: {source}{}", remedy(source))]
    Socket {
        /// The receive queue.
        queue: u32,
        /// The step that failed.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Packet memory could not be had.
    #[error("packet memory of {bytes} bytes: {source}")]
    Memory {
        /// How much was wanted.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// A worker's thread could not be started.
    #[error("starting the thread of worker {worker} failed: {source}")]
    Thread {
        /// The worker.
        worker: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

const REMEDY_PRIVILEGE: &str = "root is needed, or CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF";

/// The remedy for the errors whose number says enough.
fn remedy(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!("; {REMEDY_PRIVILEGE}"),
        Some(libc::EBUSY) => "; another process holds this queue: is a holdfastd running?".into(),
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            "; raise the memlock limit (LimitMEMLOCK=infinity) or give CAP_IPC_LOCK".into()
        }
        Some(libc::EAFNOSUPPORT) => "; this kernel lacks AF_XDP (CONFIG_XDP_SOCKETS)".into(),
        _ => String::new(),
    }
}

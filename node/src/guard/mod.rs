//! The guard: a small process that holds the routes and lets go when the daemon no longer works.
//!
//! Routes to VIPs and LIPs lie on a TUN device that vanishes when its holder dies. The holder is
//! not the daemon, because a dying process frees its memory before its descriptors (seconds), and
//! a frozen one never does. The guard locks its memory, allocates nothing after start, and watches
//! two things: a pidfd of the daemon, and the heartbeats of its threads in shared memory.
//!
//! [`watch`] decides, [`run`] is the process, [`tun`] makes the device, [`child`] is the daemon's side.

pub mod child;
pub mod run;
pub mod tun;
pub mod watch;

/// Why the guard let go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u64)]
pub enum Reason {
    /// The daemon asked for it, because it stops.
    Command = 1,
    /// The daemon is dead.
    DaemonDied = 2,
    /// The control loop was silent for longer than the guard timeout.
    ControlSilent = 3,
    /// A worker was silent for longer than the guard timeout.
    WorkerSilent = 4,
    /// The guard itself could not go on, or was killed.
    GuardFailed = 5,
    /// The daemon asked for it, because it found that it had been stalled.
    Stalled = 6,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 6] = [
        Reason::Command,
        Reason::DaemonDied,
        Reason::ControlSilent,
        Reason::WorkerSilent,
        Reason::GuardFailed,
        Reason::Stalled,
    ];

    /// The reason as a word for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Command => "command",
            Reason::DaemonDied => "daemon-died",
            Reason::ControlSilent => "control-silent",
            Reason::WorkerSilent => "worker-silent",
            Reason::GuardFailed => "guard-failed",
            Reason::Stalled => "stalled",
        }
    }

    /// The reason with this number; anything unknown is a failure of the guard.
    pub fn of(word: u64) -> Reason {
        Reason::ALL.into_iter().find(|r| *r as u64 == word).unwrap_or(Reason::GuardFailed)
    }

    /// Whether it belongs to an orderly stop: every other release is worth attention.
    pub fn wanted(self) -> bool {
        self == Reason::Command
    }
}

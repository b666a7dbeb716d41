//! What the daemon may do, checked before it tries.

use caps::{CapSet, Capability};

/// Needed, and what for.
const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_NET_ADMIN, "routes, the TUN device and attaching XDP"),
    (Capability::CAP_NET_RAW, "AF_XDP sockets"),
    (Capability::CAP_BPF, "loading the XDP program"),
];

/// One sentence on what is missing; none: nothing is.
pub fn missing() -> Option<String> {
    let has = |cap| {
        let held = |c| caps::has_cap(None, CapSet::Effective, c).unwrap_or(false);
        // Before Linux 5.8 CAP_SYS_ADMIN held what CAP_BPF holds now, and it still implies it.
        held(cap) || (cap == Capability::CAP_BPF && held(Capability::CAP_SYS_ADMIN))
    };
    let lacking: Vec<String> = NEEDED
        .iter()
        .filter(|(cap, _)| !has(*cap))
        .map(|(cap, why)| format!("{cap} ({why})"))
        .collect();
    if lacking.is_empty() {
        return None;
    }
    Some(format!(
        "holdfastd lacks {}; run it as root, or give it these capabilities and, to be quick in every \
         situation, CAP_SYS_NICE, CAP_IPC_LOCK and CAP_SYS_RESOURCE",
        lacking.join(", ")
    ))
}

//! A link between two network namespaces, for tests and benchmarks that need the kernel.
//!
//! The namespaces have no names: the kernel takes them away with the last descriptor, also when
//! the test is killed.
#![allow(dead_code)] // every test binary uses its part

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

/// Whether tests that need root may run. They fail without it, unless they are told to be skipped.
pub fn privileged() -> bool {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    assert!(
        std::env::var_os("HOLDFAST_SKIP_PRIVILEGED").is_some(),
        "this test needs root (network namespaces and XDP): run it as root or through sudo, \
         or set HOLDFAST_SKIP_PRIVILEGED=1 to skip all such tests"
    );
    eprintln!("skipped: it needs root, and HOLDFAST_SKIP_PRIVILEGED is set");
    false
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A network namespace, alive as long as this value (and whatever runs in it).
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Namespace {
        std::thread::spawn(|| {
            // SAFETY: takes an integer; moves this short-lived thread alone.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).expect("a new network namespace");
            Namespace(File::open("/proc/thread-self/ns/net").expect("its descriptor"))
        })
        .join()
        .expect("a thread in a new network namespace")
    }

    /// Runs `work` on a thread inside the namespace. What it spawns is inside too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // SAFETY: the descriptor is an open network namespace; moves this thread alone.
                check(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) })
                    .expect("entering the network namespace");
                work()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs `ip ARGUMENTS` inside.
    pub fn ip(&self, arguments: &str) {
        self.command("ip", arguments);
    }

    /// Runs a program inside, and insists on its success.
    pub fn command(&self, program: &str, arguments: &str) {
        let output = self.run(|| {
            Command::new(program)
                .args(arguments.split_whitespace())
                .output()
                .unwrap_or_else(|e| panic!("{program}: {e}"))
        });
        assert!(
            output.status.success(),
            "{program} {arguments}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A path by which other programs find it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Sets an ethtool switch (`ETHTOOL_S...`) of an interface, as `ethtool -K` does.
    pub fn ethtool(&self, interface: &str, command: u32, value: u32) {
        self.run(|| {
            #[repr(C)]
            struct Value(u32, u32);
            // SAFETY: takes integers, creates a descriptor that is owned from here on.
            let socket = unsafe {
                let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
                check(fd).expect("a socket");
                OwnedFd::from_raw_fd(fd)
            };
            let mut argument = Value(command, value);
            // SAFETY: plain old data.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_data = (&raw mut argument).cast();
            // SAFETY: `request` and the argument it points to outlive the call.
            check(unsafe { libc::ioctl(socket.as_raw_fd(), 0x8946, &raw mut request) })
                .expect("ethtool request");
        });
    }
}

/// `ETHTOOL_STXCSUM`: whether the stack leaves checksums to the device.
pub const ETHTOOL_STXCSUM: u32 = 0x17;

/// The director's end `d0` (192.0.2.1/24, 02::d0) and its peer's end `p0` (192.0.2.2/24, 02::70).
pub struct Link {
    pub director: Namespace,
    pub peer: Namespace,
}

pub const DIRECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xd0];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x70];

impl Link {
    /// A veth pair with this many queues in each direction.
    pub fn new(queues: u32) -> Link {
        let link = Link { director: Namespace::new(), peer: Namespace::new() };
        let many = format!("numrxqueues {queues} numtxqueues {queues}");
        link.director.ip(&format!(
            "link add d0 address 02:00:00:00:00:d0 {many} type veth \
             peer name p0 address 02:00:00:00:00:70 {many} netns {}",
            link.peer.path()
        ));
        link.peer.ethtool("p0", ETHTOOL_STXCSUM, 0);
        for (end, device, address) in [(&link.director, "d0", 1), (&link.peer, "p0", 2)] {
            end.run(|| {
                // Otherwise routers are solicited while packets are being counted.
                let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
                let _ = std::fs::write(path, "1");
            });
            end.ip(&format!("address add 192.0.2.{address}/24 dev {device}"));
            end.ip("link set lo up");
            end.ip(&format!("link set {device} up"));
        }
        link
    }

    /// A raw socket on the peer's end.
    pub fn raw(&self) -> RawSocket {
        self.peer.run(|| RawSocket::open("p0"))
    }
}

/// Sends and receives whole Ethernet frames.
pub struct RawSocket {
    fd: OwnedFd,
    index: libc::c_int,
}

impl RawSocket {
    /// On an interface of the calling thread's network namespace.
    pub fn open(interface: &str) -> RawSocket {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let name = std::ffi::CString::new(interface).expect("a name");
        // SAFETY: a valid C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
        assert!(index > 0, "interface {interface}");
        // SAFETY: takes integers, creates a descriptor that is owned from here on.
        let fd = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let fd = libc::socket(libc::AF_PACKET, kind, i32::from(all));
            check(fd).expect("a raw socket");
            OwnedFd::from_raw_fd(fd)
        };
        let socket = RawSocket { fd, index };
        let address = socket.address();
        // SAFETY: a valid address of its own size.
        check(unsafe {
            libc::bind(
                socket.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        })
        .expect("binding a raw socket");
        socket
    }

    fn address(&self) -> libc::sockaddr_ll {
        // SAFETY: plain old data.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = self.index;
        address
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is valid for its length.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame that came in (not one of ours going out), if there is one.
    pub fn receive(&self) -> Option<Vec<u8>> {
        loop {
            let mut frame = vec![0u8; 4096];
            // SAFETY: plain old data.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut length = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: both buffers are valid for their lengths.
            let got = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            if got < 0 {
                return None;
            }
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                frame.truncate(got as usize);
                return Some(frame);
            }
        }
    }

    /// The first frame that satisfies `wanted`, within five seconds.
    pub fn receive_such(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut found = None;
        wait_for(what, || {
            while let Some(frame) = self.receive() {
                if wanted(&frame) {
                    found = Some(frame);
                    return true;
                }
            }
            false
        });
        found.expect("wait_for panics otherwise")
    }
}

/// Waits until `condition` holds, five seconds at the most.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 5 s in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

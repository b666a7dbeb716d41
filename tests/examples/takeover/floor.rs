//! What the machine needs without us: the same hop through a bare forwarder, and a datagram's way from
//! one director's machine to another's and back.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_tests::{Background, Lab, binary, run};
use nix::sched::{CloneFlags, setns};

use crate::hop::{self, Probe};
use crate::machine_mac;
use crate::segment::{Kind, Segment};
use crate::tap::Tap;

const SOON: Duration = Duration::from_secs(10);

/// The bare forwarder's address: in the router's black hole, where reflected packets end.
const REFLECTED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 90, 255, 1), 7);

/// Runs `work` on a thread inside a network namespace.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = File::open(format!("/run/netns/{netns}"))?;
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {netns}"))?;
            work()
        });
        thread.join().expect("it does not panic")
    })
}

/// The bare forwarder of the packet core's benchmarks, on the machine of a client, whose link is made
/// like those of the directors.
pub struct Bare {
    tap: Tap,
    next: u16,
    _forwarder: Background,
}

impl Bare {
    pub fn start(lab: &Lab, router: &str) -> Result<Bare> {
        let (name, netns) = (lab.text("/clients/0/name")?, lab.text("/clients/0/netns")?);
        let mut ethtool = lab.command_in(router, "ethtool");
        run(ethtool.args(["-K", &name, "tx", "off", "gro", "on"]), SOON)?.ok()?;
        let mut command = lab.command_in(&netns, binary("examples/bare_forwarder"));
        let mut forwarder =
            Background::start(command.args(["data0", &REFLECTED.ip().to_string()]))?;
        forwarder.line(SOON, |line| line.starts_with("queue 0").then_some(()))?;
        let mac = machine_mac(&netns)?;
        let tap = inside(router, || Tap::open(&name, mac))?;
        Ok(Bare { tap, next: 0, _forwarder: forwarder })
    }

    /// So many packets through it.
    pub fn measure(&mut self, packets: usize) -> Result<Vec<u64>> {
        let mut probe = || {
            self.next = self.next.wrapping_add(1);
            let from = SocketAddrV4::new(Ipv4Addr::new(10, 90, 254, 1), self.next);
            let segment = Segment { from, to: REFLECTED, kind: Kind::Ack, seq: 1, ack: 1 };
            let ends = (from, REFLECTED);
            Probe { frame: segment.frame(&self.tap), entry: ends, exit: ends }
        };
        let probes: Vec<Probe> = (0..packets).map(|_| probe()).collect();
        hop::measure(&self.tap, &probes)
    }
}

/// How long (ns) datagrams take from the machine of one director to that of another and back, where
/// a thread of this process answers.
pub fn there_and_back(one: &str, other: &str, packets: usize) -> Result<Vec<u64>> {
    let bound = |netns: &str| {
        inside(netns, || {
            let socket = UdpSocket::bind((address_of(netns)?, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            Ok(socket)
        })
    };
    let (here, there) = (bound(one)?, bound(other)?);
    here.connect(there.local_addr()?)?;
    let mut times = Vec::with_capacity(packets);
    let mut datagram = [0; 128];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut datagram = [0; 128];
            // Ends a second after the last datagram.
            while let Ok((length, from)) = there.recv_from(&mut datagram) {
                there.send_to(&datagram[..length], from).ok();
            }
        });
        for _ in 0..packets {
            std::thread::sleep(hop::GAP);
            let sent = Instant::now();
            here.send(&[0; 100])?;
            here.recv(&mut datagram)?;
            times.push(sent.elapsed().as_nanos() as u64);
        }
        Ok(times)
    })
}

/// The address of the machine in a namespace, on the link to its router.
fn address_of(netns: &str) -> Result<Ipv4Addr> {
    let mut ip = Command::new("ip");
    let text = run(ip.args(["-n", netns, "-o", "-4", "address", "show", "data0"]), SOON)?.ok()?;
    let mut words = text.split_whitespace().skip_while(|w| *w != "inet").skip(1);
    let address = words.next().and_then(|a| a.split('/').next());
    Ok(address.with_context(|| format!("no address in {netns}"))?.parse()?)
}

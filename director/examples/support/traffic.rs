//! Packets of many flows into a veth pair, and the count of what comes back.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use etherparse::PacketBuilder;
use holdfast_director::xdp::Interface;

use super::link::{DIRECTOR_MAC, Link, PEER_MAC};

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generator.bpf.o"));

/// The most flows; as in `bpf/generator.bpf.c`.
pub const MAX_FLOWS: usize = 1 << 21;

/// The 5-tuple of a flow's packets (UDP), in network order: `struct flow` of the program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
}

// SAFETY: `repr(C)`, integers only, no padding (4 + 4 + 2 + 2, aligned to 4).
unsafe impl Pod for Flow {}

impl Flow {
    pub fn new(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Flow {
        Flow {
            source: u32::from_ne_bytes(source.0.octets()),
            destination: u32::from_ne_bytes(destination.0.octets()),
            source_port: source.1.to_be(),
            destination_port: destination.1.to_be(),
        }
    }
}

/// `struct settings` of the program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Settings {
    interface: u32,
    flows: u32,
    network_sum: u32,
    transport_sum: u32,
    next: u32,
}

// SAFETY: `repr(C)`, five integers of the same size.
unsafe impl Pod for Settings {}

/// A frame of 64 bytes on the wire (60 without the frame check sequence).
const PAYLOAD: usize = 60 - 14 - 20 - 8;

/// The generator on the peer's end of a link, and the sink that counts there.
pub struct Traffic {
    ebpf: Ebpf,
    flows: Array<MapData, Flow>,
    settings: Array<MapData, Settings>,
    arrived: PerCpuArray<MapData, u64>,
    template: Vec<u8>,
    interface: u32,
}

impl Traffic {
    /// Loads both programs and attaches the sink. Run it in the peer's namespace.
    pub fn start() -> Result<Traffic> {
        let mut ebpf = EbpfLoader::new().load(PROGRAMS).context("loading the generator")?;
        let sink: &mut Xdp = ebpf.program_mut("sink").context("program `sink`")?.try_into()?;
        sink.load().context("loading the sink")?;
        sink.attach("p0", XdpMode::Driver).context("attaching the sink to p0")?;
        let generate: &mut Xdp =
            ebpf.program_mut("generate").context("program `generate`")?.try_into()?;
        generate.load().context("loading the generator")?;
        let mut map = |name: &str| ebpf.take_map(name).with_context(|| format!("map `{name}`"));
        let (flows, settings, arrived) = (map("flows")?, map("settings")?, map("arrived")?);

        // Addresses and ports are 0 here; the program adds those of the flow to the sums.
        let builder =
            PacketBuilder::ethernet2(PEER_MAC, DIRECTOR_MAC).ipv4([0; 4], [0; 4], 64).udp(0, 0);
        let mut template = Vec::new();
        builder.write(&mut template, &[0; PAYLOAD])?;
        let index = Interface::usable("p0").context("interface p0")?.index();
        Ok(Traffic {
            ebpf,
            flows: flows.try_into()?,
            settings: settings.try_into()?,
            arrived: arrived.try_into()?,
            template,
            interface: index,
        })
    }

    /// From now on the packets are those of these flows, in turn.
    pub fn set_flows(&mut self, flows: &[Flow]) -> Result<()> {
        ensure!(!flows.is_empty() && flows.len() <= MAX_FLOWS, "1 to {MAX_FLOWS} flows");
        for (n, flow) in (0..).zip(flows) {
            self.flows.set(n, flow, 0)?;
        }
        // A checksum is the complement of its sum (RFC 1071).
        let sum =
            |at: usize| u32::from(!u16::from_ne_bytes([self.template[at], self.template[at + 1]]));
        let settings = Settings {
            interface: self.interface,
            flows: flows.len() as u32,
            network_sum: sum(24),
            transport_sum: sum(40),
            next: 0,
        };
        self.settings.set(0, settings, 0).context("settings of the generator")
    }

    /// Sends this many packets, as fast as it goes.
    pub fn send(&mut self, packets: u32) -> Result<()> {
        let generate: &mut Xdp =
            self.ebpf.program_mut("generate").context("program `generate`")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(&self.template),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(64),
            ..TestRunOptions::new()
        };
        generate.test_run(options).context("BPF_PROG_RUN with live frames (Linux 5.18)")?;
        Ok(())
    }

    /// Packets that have come back so far.
    pub fn arrived(&self) -> Result<u64> {
        Ok(self.arrived.get(&0, 0)?.iter().sum())
    }
}

/// Binds the calling thread, and the threads it starts, to one CPU; on a machine with one, nothing.
pub fn run_on_cpu(cpu: usize) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus < 2 {
        return;
    }
    // SAFETY: cpu_set_t is plain old data.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a valid set, and a CPU number below its size.
    unsafe { libc::CPU_SET(cpu % cpus, &mut set) };
    // SAFETY: a valid set of the size that is passed; 0 is the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result != 0 {
        eprintln!("not bound to CPU {cpu}: {}", std::io::Error::last_os_error());
    }
}

/// Starts traffic on the link's peer.
pub fn on(link: &Link) -> Result<Traffic> {
    link.peer.run(Traffic::start)
}

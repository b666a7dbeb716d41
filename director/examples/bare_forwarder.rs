//! A bare AF_XDP forwarder: every IPv4 packet for one of the addresses is sent back out of the
//! interface it came from, with its MAC addresses swapped. No tables, no rewriting: what the rings
//! and the kernel can do on this machine.
//!
//! ```text
//! bare_forwarder INTERFACE ADDRESS...      (as root; ends with Ctrl-C, prints a rate every second)
//! ```

#[path = "support/reflector.rs"]
mod reflector;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_director::worker::{Pool, PoolConfig};
use holdfast_schema::flow::Addr;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, addresses @ ..] = arguments.as_slice() else { bail!(USAGE) };
    if addresses.is_empty() {
        bail!(USAGE);
    }
    let addresses = addresses
        .iter()
        .map(|text| text.parse::<IpAddr>().with_context(|| format!("`{text}` is no IP address")))
        .collect::<Result<Vec<_>>>()?;
    let pool = Pool::start(
        &PoolConfig::new(interface.as_str()),
        addresses.into_iter().map(Addr::from),
        [],
        |_, _| reflector::Reflector,
    )?;
    println!("{:?}; packets a second: received, sent, dropped for want of room", pool.mode());
    let mut before = pool.counters()?.queues;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        if let Some(failure) = pool.failure() {
            bail!(failure);
        }
        let now = pool.counters()?.queues;
        for (queue, (now, before)) in now.iter().zip(&before).enumerate() {
            println!(
                "queue {queue}: {:>10} {:>10} {:>10}",
                now.io.received - before.io.received,
                now.io.transmitted - before.io.transmitted,
                now.kernel.rx_ring_full - before.kernel.rx_ring_full + now.kernel.fill_ring_empty
                    - before.kernel.fill_ring_empty
                    + now.io.tx_ring_full
                    - before.io.tx_ring_full,
            );
        }
        before = now;
    }
}

const USAGE: &str = "usage: bare_forwarder INTERFACE ADDRESS...";

//! The kernel's routes, rules, neighbours and links, through rtnetlink.
//!
//! [`hops`] (pure) turns what the kernel knows into next hops; [`watch`] keeps them fresh;
//! [`routes`] puts VIPs and LIPs on the guard's device; [`rules`] checks and fills the blackholes,
//! with [`cover`] (pure) to make them few.

pub mod cover;
pub mod hops;
pub mod routes;
pub mod rules;
pub mod watch;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::TryStreamExt;
use holdfast_schema::prefix::Prefix;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::sync::Mutex;

use hops::{Link, Neighbour, RouteEntry, Via};

/// A request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error("{what}: {source}{}", hint(.source))]
    Request {
        /// What was asked for.
        what: String,
        /// Its answer.
        source: rtnetlink::Error,
    },
    /// No such interface.
    #[error("there is no interface `{0}`; `ip link` lists those of this network namespace")]
    NoInterface(String),
}

/// The errno of an error of the kernel's.
pub fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

fn hint(error: &rtnetlink::Error) -> &'static str {
    match errno(error) {
        Some(libc::EPERM) => " (needs CAP_NET_ADMIN)",
        _ => "",
    }
}

/// A connection to the kernel. Clones share the socket.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
    /// The kernel serves one dump a socket at a time, and refuses a second one with EBUSY.
    dumping: Arc<Mutex<()>>,
}

/// A route as [`Netlink::routes`] tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelRoute {
    /// Where it leads.
    pub entry: RouteEntry,
    /// Its table.
    pub table: u32,
    /// Whether it is a blackhole.
    pub blackhole: bool,
    /// The kernel's form, for deleting it.
    message: RouteMessage,
}

impl KernelRoute {
    /// Who wrote it.
    fn protocol(&self) -> RouteProtocol {
        self.message.header.protocol
    }
}

impl Netlink {
    /// Opens a connection, served by a task of the current runtime.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Netlink { handle, dumping: Arc::default() })
    }

    /// The interface of this name.
    pub async fn link(&self, name: &str) -> Result<Link, NetlinkError> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let message = match found.try_next().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(NetlinkError::NoInterface(name.to_owned())),
            Err(e) if errno(&e) == Some(libc::ENODEV) => {
                return Err(NetlinkError::NoInterface(name.to_owned()));
            }
            Err(source) => return Err(request(format!("interface `{name}`"))(source)),
        };
        let mut link = Link {
            index: message.header.index,
            mac: [0; 6],
            mtu: 1500,
            up: message.header.flags.contains(LinkFlags::Up),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => {
                    if let Ok(mac) = <[u8; 6]>::try_from(bytes.as_slice()) {
                        link.mac = mac;
                    }
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        Ok(link)
    }

    /// All routes of both families, of one table or of all.
    pub async fn routes(&self, table: Option<u32>) -> Result<Vec<KernelRoute>, NetlinkError> {
        let _turn = self.dumping.lock().await;
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            let mut dump = self.handle.route().get(ask).execute();
            while let Some(message) = dump.try_next().await.map_err(request("list routes"))? {
                if let Some(route) = kernel_route(message)
                    && table.is_none_or(|t| t == route.table)
                {
                    routes.push(route);
                }
            }
        }
        Ok(routes)
    }

    /// The neighbours on an interface.
    pub async fn neighbours(&self, ifindex: u32) -> Result<Vec<(IpAddr, Neighbour)>, NetlinkError> {
        let _turn = self.dumping.lock().await;
        let mut found = Vec::new();
        let mut dump = self.handle.neighbours().get().execute();
        while let Some(message) = dump.try_next().await.map_err(request("list neighbours"))? {
            if message.header.ifindex != ifindex {
                continue;
            }
            let (mut address, mut mac) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                        address = Some(IpAddr::V4(*ip));
                    }
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                        address = Some(IpAddr::V6(*ip));
                    }
                    NeighbourAttribute::LinkLayerAddress(bytes) => {
                        mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
                    }
                    _ => {}
                }
            }
            let Some(address) = address else { continue };
            use NeighbourState as S;
            let state = message.header.state;
            let usable = matches!(
                state,
                S::Reachable | S::Stale | S::Delay | S::Probe | S::Permanent | S::Noarp
            );
            let confirmed = matches!(state, S::Reachable | S::Permanent | S::Noarp);
            found.push((address, Neighbour { mac: mac.filter(|_| usable), confirmed }));
        }
        Ok(found)
    }

    /// Asks the kernel to resolve a neighbour, as if there were a packet for it.
    pub async fn resolve(&self, ifindex: u32, neighbour: IpAddr) -> Result<(), NetlinkError> {
        let ask = self.handle.neighbours().add(ifindex, neighbour);
        let ask = ask.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
        ask.execute().await.map_err(request(format!("resolve {neighbour}")))
    }

    /// Prefixes directly connected to this machine, loopback and link-local ones left out.
    pub async fn connected(&self, except: &[u32]) -> Result<Vec<Prefix>, NetlinkError> {
        let _turn = self.dumping.lock().await;
        let mut found = Vec::new();
        let mut dump = self.handle.address().get().execute();
        while let Some(message) = dump.try_next().await.map_err(request("list addresses"))? {
            if except.contains(&message.header.index) {
                continue;
            }
            for attribute in &message.attributes {
                let AddressAttribute::Address(ip) = attribute else { continue };
                let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
                if !ip.is_loopback() && !link_local {
                    found.push(Prefix::holding(*ip, message.header.prefix_len));
                }
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    async fn add_route(&self, route: RouteMessage) -> Result<(), NetlinkError> {
        let what = format!("add route {}", describe(&route));
        match self.handle.route().add(route).execute().await {
            Err(e) if errno(&e) == Some(libc::EEXIST) => Ok(()),
            result => result.map_err(request(what)),
        }
    }

    async fn delete_route(&self, route: RouteMessage) -> Result<(), NetlinkError> {
        let what = format!("delete route {}", describe(&route));
        match self.handle.route().del(route).execute().await {
            // It is gone already: its device was removed, or somebody else was quicker.
            Err(e) if matches!(errno(&e), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
            result => result.map_err(request(what)),
        }
    }
}

fn request(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError::Request { what: what.into(), source }
}

fn describe(route: &RouteMessage) -> String {
    kernel_route(route.clone())
        .map(|r| format!("{} in table {}", r.entry.prefix, r.table))
        .unwrap_or_else(|| "of an unknown family".to_owned())
}

/// A host route in a table, on a device with a metric.
fn host_route(address: IpAddr, table: u32, (ifindex, metric): (u32, u32)) -> RouteMessage {
    let build = RouteMessageBuilder::<IpAddr>::new().table_id(table);
    to(Prefix::host(address), build.output_interface(ifindex).priority(metric))
}

/// A blackhole in a table, marked with who wrote it.
fn blackhole(prefix: Prefix, table: u32, writer: RouteProtocol) -> RouteMessage {
    let build = RouteMessageBuilder::<IpAddr>::new().table_id(table);
    to(prefix, build.kind(RouteType::BlackHole).protocol(writer))
}

fn to(prefix: Prefix, build: RouteMessageBuilder<IpAddr>) -> RouteMessage {
    // The length always fits the family, so the builder cannot refuse it.
    let addressed = build.clone().destination_prefix(prefix.address(), prefix.length());
    addressed.unwrap_or(build).build()
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn kernel_route(message: RouteMessage) -> Option<KernelRoute> {
    let header = &message.header;
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => [0u8; 4].into(),
        AddressFamily::Inet6 => [0u8; 16].into(),
        _ => return None,
    };
    let mut destination = any;
    let (mut table, mut metric, mut mtu) = (u32::from(header.table), 0, None);
    let (mut gateway, mut oif, mut via) = (None, None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => destination = ip_of(ip)?,
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Priority(p) => metric = *p,
            RouteAttribute::Gateway(ip) => gateway = ip_of(ip),
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|m| match m {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(hops) => {
                via.extend(hops.iter().map(|hop| Via {
                    ifindex: hop.interface_index,
                    gateway: hop.attributes.iter().find_map(|a| match a {
                        RouteAttribute::Gateway(ip) => ip_of(ip),
                        _ => None,
                    }),
                }));
            }
            _ => {}
        }
    }
    if let Some(ifindex) = oif {
        via.push(Via { ifindex, gateway });
    }
    let prefix = Prefix::holding(destination, header.destination_prefix_length);
    let unicast = header.kind == RouteType::Unicast;
    let blackhole = header.kind == RouteType::BlackHole;
    let entry = RouteEntry { prefix, unicast, metric, mtu, via };
    Some(KernelRoute { entry, table, blackhole, message })
}

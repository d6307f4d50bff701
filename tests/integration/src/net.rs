//! Network namespaces: nodes and clients with addresses of their own, which a guard by network can tell apart.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::host::owner_is_gone;

/// The start of the names of our namespaces; the process id follows.
const PREFIX: &str = "pgcust-";

/// The second number of the addresses of a region, 10.N.0.0/16; other regions get 101, 102, … in order of mention.
const KNOWN_REGIONS: [(&str, u8); 3] = [("cn", 86), ("eu", 33), ("us", 11)];

/// Several network namespaces that reach each other, and nothing else.
///
/// A place is named after its region: `cn-a` and `cn-b` are in region `cn` and have the addresses 10.86.0.1 and
/// 10.86.0.2; `eu` is in region `eu` and has 10.33.0.1. All of it is apart from the network of the machine, so the
/// same addresses serve in tests that run at the same time.
#[derive(Debug)]
pub struct Net {
    hub: String,
    places: BTreeMap<String, Place>,
    regions: BTreeMap<String, u8>,
}

/// One namespace of a [`Net`]: where a cluster or a client program can be.
#[derive(Debug, Clone)]
pub struct Place {
    name: String,
    region: String,
    namespace: String,
    address: Ipv4Addr,
    descriptor: Arc<File>,
}

impl Net {
    /// Whether this machine and user can make namespaces (tried once); if not, why.
    ///
    /// # Errors
    /// What went wrong in the attempt.
    pub fn available() -> Result<()> {
        static AVAILABLE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
        AVAILABLE
            .get_or_init(|| match Self::new(&["try"]) {
                Ok(_) => Ok(()),
                Err(e) => Err(e.to_string()),
            })
            .clone()
            .map_err(Error::from)
    }

    /// Makes a namespace for each name, and connects them.
    ///
    /// # Errors
    /// If the machine or the user may not make them.
    pub fn new(names: &[&str]) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static STALE: OnceLock<()> = OnceLock::new();
        STALE.get_or_init(remove_stale);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let base = format!("{PREFIX}{}-{number}", std::process::id());
        let mut net = Self {
            hub: format!("{base}-hub"),
            places: BTreeMap::new(),
            regions: BTreeMap::new(),
        };
        ip(&format!("netns add {}", net.hub))?;
        ip(&format!("-n {} link add hub type bridge", net.hub))?;
        ip(&format!("-n {} link set hub up", net.hub))?;
        for name in names {
            net.add(name, &base)?;
        }
        Ok(net)
    }

    fn add(&mut self, name: &str, base: &str) -> Result<()> {
        if self.places.contains_key(name) {
            return Err(Error::new(format!("two places are called {name}")));
        }
        let region = name.split('-').next().unwrap_or(name).to_owned();
        let number = self.region_number(&region);
        let host = 1 + self.places.values().filter(|p| p.region == region).count();
        let host = u8::try_from(host).map_err(|e| e.to_string())?;
        let address = Ipv4Addr::new(10, number, 0, host);
        let namespace = format!("{base}-{name}");
        ip(&format!("netns add {namespace}"))?;
        // From here on a failure is cleaned up by Drop, which removes all namespaces whose names start with `base`.
        let port = format!("port{}", self.places.len());
        let hub = &self.hub;
        ip(&format!(
            "-n {namespace} link add eth0 type veth peer name {port} netns {hub}"
        ))?;
        ip(&format!("-n {hub} link set {port} master hub up"))?;
        ip(&format!("-n {namespace} addr add {address}/8 dev eth0"))?;
        ip(&format!("-n {namespace} link set eth0 up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        let descriptor = Arc::new(File::open(format!("/run/netns/{namespace}"))?);
        let place = Place {
            name: name.to_owned(),
            region,
            namespace,
            address,
            descriptor,
        };
        self.places.insert(name.to_owned(), place);
        Ok(())
    }

    fn region_number(&mut self, region: &str) -> u8 {
        let known = KNOWN_REGIONS.iter().find(|(name, _)| *name == region);
        let next = 101 + u8::try_from(self.regions.len()).unwrap_or(0);
        let number = known.map_or(next, |(_, number)| *number);
        *self.regions.entry(region.to_owned()).or_insert(number)
    }

    /// A place by its name.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn at(&self, name: &str) -> &Place {
        match self.places.get(name) {
            Some(place) => place,
            None => panic!("there is no place {name} in this net"),
        }
    }

    /// The network of a region, as `10.86.0.0/16`.
    ///
    /// # Panics
    /// If there is no place in that region.
    #[must_use]
    #[track_caller]
    pub fn network(&self, region: &str) -> String {
        match self.regions.get(region) {
            Some(number) => format!("10.{number}.0.0/16"),
            None => panic!("there is no region {region} in this net"),
        }
    }

    /// The start of the names of all namespaces of this net (`ip netns list` shows them).
    #[must_use]
    pub fn namespace_prefix(&self) -> &str {
        self.hub.strip_suffix("hub").unwrap_or(&self.hub)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in namespaces() {
            if name.starts_with(self.namespace_prefix())
                && let Err(e) = ip(&format!("netns del {name}"))
            {
                eprintln!("could not remove the network namespace {name}: {e}");
            }
        }
    }
}

impl Place {
    /// Its name in the net.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        IpAddr::V4(self.address)
    }

    /// The name of the region it is in.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The name of its namespace, as `ip netns exec` wants it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Gives its machine one more address, of which the first eight bits are those of all places.
    ///
    /// # Errors
    /// If it cannot be added.
    pub fn add_address(&self, address: &str) -> Result<()> {
        // Nobody else has one of version 6, and looking for others takes a second.
        let at_once = if address.contains(':') { " nodad" } else { "" };
        ip(&format!(
            "-n {} addr add {address}/8 dev eth0{at_once}",
            self.namespace
        ))
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// Runs `work` in this namespace: sockets that it opens are there.
    ///
    /// It runs in a thread of its own, since a namespace belongs to a thread.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or `work` fails.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let descriptor = self.descriptor();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // SAFETY: setns has no memory preconditions; the descriptor is open as long as `self` is borrowed.
                if unsafe { libc::setns(descriptor, libc::CLONE_NEWNET) } != 0 {
                    return Err(std::io::Error::last_os_error().into());
                }
                work()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// The names of all network namespaces of the machine.
#[must_use]
pub fn namespaces() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Removes the namespaces that killed test processes of ours left behind.
fn remove_stale() {
    for name in namespaces() {
        if owner_is_gone(&name, PREFIX) {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// Runs `ip` with these arguments.
fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|e| Error::new(format!("could not run ip: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(format!("ip {arguments}: {reason}")))
}

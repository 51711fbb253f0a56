//! How many connections one address may hold, so that it cannot take all of them.
//!
//! It must never know requests, nor read anything that a client sent: whom a proxy speaks for is not asked.
//!
//! Start reading at [`Peers::enter`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ServerConfig;

/// Connections by where they come from.
#[derive(Debug)]
pub(crate) struct Peers {
    loopback_limit: usize,
    other_limit: usize,
    /// As many entries as there are connections, at most.
    open: Mutex<HashMap<IpAddr, usize>>,
    n_refused: AtomicU64,
}

/// One address's connection, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct PeerPlace {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Peers {
    /// Unless it is said, this machine, where a reverse proxy may speak for everybody, has three quarters of all
    /// connections, and any other address a quarter.
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let all = config.max_connections;
        let said = config.max_connections_per_address;
        Peers {
            loopback_limit: said.unwrap_or(all - all / 4).max(1),
            other_limit: said.unwrap_or(all / 4).max(1),
            open: Mutex::default(),
            n_refused: AtomicU64::new(0),
        }
    }

    /// A place for one more connection from `address`, if it does not hold as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<PeerPlace> {
        let peer = peer_of(address);
        let limit = if peer.is_loopback() { self.loopback_limit } else { self.other_limit };
        let mut open = self.lock();
        let n = open.entry(peer).or_insert(0);
        if *n >= limit {
            self.n_refused.fetch_add(1, Relaxed);
            return None;
        }
        *n += 1;
        Some(PeerPlace { peers: Arc::clone(self), peer })
    }

    /// Connections that were refused.
    pub(crate) fn n_refused(&self) -> u64 {
        self.n_refused.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut open = self.peers.lock();
        if let Some(n) = open.get_mut(&self.peer) {
            *n -= 1;
            if *n == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

/// Who counts as one: an IPv4 address, or the 64 bits of an IPv6 address that one customer has at least.
fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let bits = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn peers(max_connections: usize, per_address: Option<usize>) -> Arc<Peers> {
        let max_connections_per_address = per_address;
        let config = ServerConfig {
            max_connections,
            max_connections_per_address,
            ..ServerConfig::default()
        };
        Arc::new(Peers::new(&config))
    }

    #[track_caller]
    fn check(peers: &Arc<Peers>, address: &str, n: usize) {
        let address: IpAddr = address.parse().unwrap();
        let places: Vec<_> = (0..100).map_while(|_| peers.enter(address)).collect();
        assert_eq!(places.len(), n, "{address}");
    }

    #[test]
    fn an_address_holds_its_part_and_gets_it_back() {
        let by_default = peers(40, None);
        for _ in 0..2 {
            check(&by_default, "127.0.0.1", 30);
            check(&by_default, "::1", 30);
            check(&by_default, "::ffff:127.0.0.1", 30);
            check(&by_default, "192.0.2.1", 10);
        }
        assert!(by_default.lock().is_empty());
        let said = peers(40, Some(3));
        check(&said, "127.0.0.1", 3);
        check(&said, "192.0.2.1", 3);
        assert_eq!(said.n_refused(), 2);
    }

    #[test]
    fn one_customers_addresses_of_ipv6_are_one() {
        let peers = peers(40, Some(1));
        let ask = |text: &str| peers.enter(text.parse().unwrap());
        let _first = ask("2001:db8:1:2::1").unwrap();
        assert!(ask("2001:db8:1:2:ffff::9").is_none());
        assert!(ask("2001:db8:1:3::1").is_some());
    }
}

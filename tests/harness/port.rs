//! A TCP port of 127.0.0.1 that stays ours while nobody listens on it.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket,
};

use crate::error::{Doing, Error};

/// A port on which connections are refused until somebody listens on it, and again afterwards. A socket
/// that is bound but never listens keeps it, so that the system gives it to nobody else; a server that
/// sets `SO_REUSEADDR`, as they all do, can listen on it all the same.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _bound: OwnedFd,
}

impl ReservedPort {
    /// Reserves a free port.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new() -> Result<Self, Error> {
        let reserve = || -> nix::Result<Self> {
            let bound = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&bound, ReuseAddr, &true)?;
            bind(bound.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
            let port = getsockname::<SockaddrIn>(bound.as_raw_fd())?.port();
            let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into();
            Ok(Self { address, _bound: bound })
        };
        reserve().doing(|| "reserve a port of 127.0.0.1".to_owned())
    }

    /// The address to listen on or to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn it_refuses_unless_somebody_listens() {
        let port = ReservedPort::new().unwrap();
        let refused =
            || TcpStream::connect(port.address()).unwrap_err().kind() == ErrorKind::ConnectionRefused;
        for _ in 0..3 {
            assert!(refused());
            let listener = TcpListener::bind(port.address()).unwrap();
            TcpStream::connect(port.address()).unwrap();
            drop(listener);
        }
        assert!(refused());
    }
}

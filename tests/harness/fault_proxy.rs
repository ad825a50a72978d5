//! A TCP proxy that damages what passes through it.
//!
//! ```text
//! client ──requests──► proxy ──requests──► server
//!        ◄──damaged───       ◄──answers───
//! ```
//!
//! It stands between a client that keeps connections and a server that answers one request after the
//! other. Bytes of an answer are counted from the last request of the same connection.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::sockopt::Linger;
use nix::sys::socket::{self, setsockopt};

use crate::ReservedPort;
use crate::error::{Doing, Error};

/// Bytes that are passed on at once.
const CHUNK: usize = 64 << 10;

/// How long the server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// What the proxy does to connections. Lengths and offsets are in bytes of one answer; shorter answers
/// pass unharmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// The port is closed and every connection is cut, as if there were no server.
    Refuse,
    /// A connection is closed when it is accepted or, if it was open before, at its next request.
    Drop,
    /// Each answer begins so much later.
    Delay(Duration),
    /// An answer ends after so many bytes, in good order as far as TCP knows.
    Truncate(usize),
    /// One byte of an answer arrives changed.
    Flip {
        /// Which one.
        at: usize,
        /// The bits that change.
        bits: u8,
    },
    /// The connection is reset (RST) after so many bytes of an answer.
    Reset(usize),
    /// Requests are accepted and never answered, also not when the fault is over.
    Stall,
    /// All answers together get at most so many bytes a second.
    Throttle(u32),
}

/// The proxy. Dropping it closes its port, cuts every connection, and waits until all are gone.
pub struct FaultProxy {
    port: ReservedPort,
    shared: Arc<Shared>,
    door: Option<Door>,
}

/// The listening socket and the thread that waits on it.
struct Door {
    listener: Arc<TcpListener>,
    thread: JoinHandle<()>,
}

struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    /// The proxy cuts connections, or one has ended.
    changed: Condvar,
}

struct State {
    fault: Fault,
    /// The fault is over when it has struck.
    once: bool,
    strikes: usize,
    /// New connections are taken.
    open: bool,
    /// Both ends of every connection, to cut it by.
    connections: HashMap<usize, [TcpStream; 2]>,
    next: usize,
    /// When the line is free again for a throttled answer.
    line_free: Option<Instant>,
}

impl FaultProxy {
    /// Starts one, on a free port of 127.0.0.1, that passes everything on to `server`.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(server: SocketAddr) -> Result<Self, Error> {
        let connections = HashMap::new();
        let (fault, line_free) = (Fault::Pass, None);
        let state = State { fault, once: false, strikes: 0, open: false, connections, next: 0, line_free };
        let shared = Arc::new(Shared { server, state: Mutex::new(state), changed: Condvar::new() });
        let mut proxy = Self { port: ReservedPort::new()?, shared, door: None };
        proxy.open()?;
        Ok(proxy)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// From now on, and until it is told otherwise, the proxy has this fault. Connections stay open unless
    /// the fault is [`Fault::Refuse`]; those that have stalled stay so.
    ///
    /// # Errors
    /// When the port cannot be opened again.
    pub fn set(&mut self, fault: Fault) -> Result<(), Error> {
        self.change(fault, false)
    }

    /// As [`set`](Self::set), but the proxy passes again after the fault has struck once. It cannot tell
    /// when a connection was refused: [`Fault::Refuse`] lasts.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_once(&mut self, fault: Fault) -> Result<(), Error> {
        self.change(fault, true)
    }

    /// How often faults have struck so far, refused connections not counted.
    pub fn strikes(&self) -> usize {
        self.shared.lock().strikes
    }

    fn change(&mut self, fault: Fault, once: bool) -> Result<(), Error> {
        {
            let mut state = self.shared.lock();
            (state.fault, state.once) = (fault, once);
        }
        match fault {
            Fault::Refuse => self.close(),
            _ if self.door.is_none() => self.open()?,
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Error> {
        let address = self.address();
        let listener = TcpListener::bind(address).doing(|| format!("listen on {address}"))?;
        let (listener, shared) = (Arc::new(listener), self.shared.clone());
        shared.lock().open = true;
        let waiting = listener.clone();
        // Ends when `close` shuts the listening socket.
        let thread = thread::spawn(move || {
            while let Ok((client, _)) = waiting.accept() {
                let shared = shared.clone();
                thread::spawn(move || shared.serve(client));
            }
        });
        self.door = Some(Door { listener, thread });
        Ok(())
    }

    /// Closes the port and waits until no connection is left.
    fn close(&mut self) {
        let Some(Door { listener, thread }) = self.door.take() else { return };
        // Wakes the thread out of `accept`; a socket of ours that listens can always be shut.
        let _ = socket::shutdown(listener.as_raw_fd(), socket::Shutdown::Both);
        // It does not panic: it only accepts.
        let _ = thread.join();
        let mut state = self.shared.lock();
        state.open = false;
        for end in state.connections.values().flatten() {
            // Fails only if it is shut already.
            let _ = end.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
        while !state.connections.is_empty() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault, if it `strikes` now; otherwise [`Fault::Pass`].
    fn strike(&self, strikes: impl Fn(Fault) -> bool) -> Fault {
        let mut state = self.lock();
        if !strikes(state.fault) {
            return Fault::Pass;
        }
        state.strikes += 1;
        if state.once { std::mem::replace(&mut state.fault, Fault::Pass) } else { state.fault }
    }

    fn serve(&self, client: TcpStream) {
        if self.strike(|fault| fault == Fault::Drop) == Fault::Drop {
            return;
        }
        // A server that cannot be reached, or a proxy that is closing, is a closed connection to the client.
        let Ok(server) = TcpStream::connect_timeout(&self.server, CONNECT) else { return };
        let Some(number) = self.register(&client, &server) else { return };
        let answered = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                self.pass_requests(&client, &server, &answered);
                // The client's own side stays open for sending: it may have to be reset.
                let _ = (client.shutdown(Shutdown::Read), server.shutdown(Shutdown::Both));
            });
            self.pass_answers(&client, &server, &answered);
            let _ = (client.shutdown(Shutdown::Read), server.shutdown(Shutdown::Both));
        });
        self.lock().connections.remove(&number);
        // The last handle: this sends the end of the connection, or its reset, before anybody is told.
        drop(client);
        self.changed.notify_all();
    }

    fn register(&self, client: &TcpStream, server: &TcpStream) -> Option<usize> {
        // What is passed on is passed on at once.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ends = [client.try_clone().ok()?, server.try_clone().ok()?];
        let mut state = self.lock();
        if !state.open {
            return None;
        }
        state.next += 1;
        let number = state.next;
        state.connections.insert(number, ends);
        Some(number)
    }

    fn pass_requests(&self, mut client: &TcpStream, mut server: &TcpStream, answered: &AtomicUsize) {
        let mut chunk = vec![0; CHUNK];
        let mut stalled = false;
        while let Ok(length @ 1..) = client.read(&mut chunk) {
            answered.store(0, Ordering::Relaxed);
            match self.strike(|fault| matches!(fault, Fault::Drop | Fault::Stall)) {
                Fault::Drop => return,
                Fault::Stall => stalled = true,
                _ => {}
            }
            if !stalled && server.write_all(&chunk[..length]).is_err() {
                return;
            }
        }
    }

    fn pass_answers(&self, mut client: &TcpStream, mut server: &TcpStream, answered: &AtomicUsize) {
        let mut chunk = vec![0; CHUNK];
        while let Ok(length @ 1..) = server.read(&mut chunk) {
            let start = answered.fetch_add(length, Ordering::Relaxed);
            let end = start + length;
            let fault = self.strike(|fault| match fault {
                Fault::Delay(_) => start == 0,
                Fault::Truncate(at) | Fault::Reset(at) => at < end,
                Fault::Flip { at, .. } => (start..end).contains(&at),
                Fault::Throttle(_) => true,
                Fault::Pass | Fault::Refuse | Fault::Drop | Fault::Stall => false,
            });
            let mut pass = length;
            match fault {
                Fault::Delay(pause) => self.wait(pause),
                Fault::Flip { at, bits } => chunk[at - start] ^= bits,
                Fault::Truncate(at) | Fault::Reset(at) => pass = at.saturating_sub(start),
                Fault::Throttle(rate) => self.wait_for_line(length, rate),
                Fault::Pass | Fault::Refuse | Fault::Drop | Fault::Stall => {}
            }
            let sent = client.write_all(&chunk[..pass]);
            if matches!(fault, Fault::Reset(_)) {
                // Closing it now discards what is not sent yet, and tells the client so.
                let _ = setsockopt(&client, Linger, &linger { l_onoff: 1, l_linger: 0 });
            }
            if sent.is_err() || pass < length {
                return;
            }
        }
    }

    /// Waits until a line of `rate` bytes a second has had time for these bytes, after all before them.
    fn wait_for_line(&self, bytes: usize, rate: u32) {
        let now = Instant::now();
        let takes = Duration::from_secs_f64(bytes as f64 / f64::from(rate.max(1)));
        let free = {
            let mut state = self.lock();
            let free = state.line_free.map_or(now, |free| free.max(now)) + takes;
            state.line_free = Some(free);
            free
        };
        self.wait(free - now);
    }

    /// Waits so long, or until the proxy closes.
    fn wait(&self, pause: Duration) {
        // The guard is of no use, and a poisoned lock no reason not to wait.
        let _ = self.changed.wait_timeout_while(self.lock(), pause, |state| state.open);
    }
}

#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader, ErrorKind};
use std::time::Instant;

use super::*;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends every line back; ends with the test program.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut lines = BufReader::new(connection.try_clone().unwrap());
                let mut line = String::new();
                while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
                    (&connection).write_all(line.as_bytes()).unwrap();
                    line.clear();
                }
            });
        }
    });
    address
}

fn connect(proxy: &FaultProxy) -> TcpStream {
    let connection = TcpStream::connect(proxy.address()).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection
}

/// What comes back for a line: up to the end of the line or of the connection.
fn ask(mut connection: &TcpStream) -> std::io::Result<Vec<u8>> {
    connection.write_all(b"0123456789\n")?;
    let mut answer = Vec::new();
    BufReader::new(connection).read_until(b'\n', &mut answer)?;
    Ok(answer)
}

#[test]
fn each_fault_is_what_it_says() {
    let mut proxy = FaultProxy::start(echo()).unwrap();
    let whole = b"0123456789\n";
    let flip = Fault::Flip { at: 3, bits: 1 };
    for (fault, answer) in [
        (Fault::Pass, &whole[..]),
        (flip, b"0122456789\n"),
        (Fault::Truncate(4), b"0123"),
        (Fault::Drop, b""),
    ] {
        let connection = connect(&proxy);
        assert_eq!(ask(&connection).unwrap(), whole);
        proxy.set_once(fault).unwrap();
        assert_eq!(ask(&connection).unwrap(), answer, "{fault:?}");
        assert_eq!(ask(&connect(&proxy)).unwrap(), whole, "{fault:?} strikes once");
        proxy.set(Fault::Pass).unwrap();
    }
    proxy.set(Fault::Reset(4)).unwrap();
    assert_eq!(ask(&connect(&proxy)).unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.set(Fault::Delay(Duration::from_millis(30))).unwrap();
    let (connection, start) = (connect(&proxy), Instant::now());
    assert_eq!(ask(&connection).unwrap(), whole);
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(proxy.strikes(), 5);
}

#[test]
fn a_stalled_connection_ends_with_the_proxy() {
    let mut proxy = FaultProxy::start(echo()).unwrap();
    proxy.set_once(Fault::Stall).unwrap();
    let connection = connect(&proxy);
    let asking = thread::spawn(move || ask(&connection).unwrap_or_default());
    crate::wait_for("the request stalls", PATIENCE, || match proxy.strikes() {
        1 => Ok(()),
        _ => Err("not yet".to_owned()),
    })
    .unwrap();
    assert_eq!(ask(&connect(&proxy)).unwrap(), b"0123456789\n", "others are answered");
    drop(proxy);
    assert_eq!(asking.join().unwrap(), b"");
}

#[test]
fn a_closed_port_cuts_and_opens_again() {
    let mut proxy = FaultProxy::start(echo()).unwrap();
    for _ in 0..3 {
        let connection = connect(&proxy);
        assert_eq!(ask(&connection).unwrap(), b"0123456789\n");
        proxy.set(Fault::Refuse).unwrap();
        assert!(ask(&connection).is_ok_and(|answer| answer.is_empty()) || ask(&connection).is_err());
        let refused = TcpStream::connect(proxy.address()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        proxy.set(Fault::Pass).unwrap();
    }
}

#[test]
fn all_throttled_answers_share_one_line() {
    let mut proxy = FaultProxy::start(echo()).unwrap();
    proxy.set(Fault::Throttle(220)).unwrap();
    let connections = [connect(&proxy), connect(&proxy)];
    let start = Instant::now();
    thread::scope(|scope| {
        for connection in &connections {
            scope.spawn(move || assert_eq!(ask(connection).unwrap(), b"0123456789\n"));
        }
    });
    assert!(start.elapsed() >= Duration::from_millis(100), "22 bytes at 220 a second");
}

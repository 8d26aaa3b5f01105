//! The datagram that systemd's watchdog waits for (start-and-worker §8).

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixDatagram;

/// The whole datagram: no newline, as whoever listens may be something smaller than systemd.
const ALIVE: &[u8] = b"WATCHDOG=1";

/// Says to the socket at `address` that all is well. An address that begins with `@` is not in the file system. Never waits: a
/// listener that does not read must not hold up the agent.
pub(super) fn notify(address: &OsStr) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    if let Some(name) = std::os::unix::ffi::OsStrExt::as_bytes(address).strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?;
        return socket.send(ALIVE).map(drop);
    }
    socket.connect(address)?;
    socket.send(ALIVE).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(listener: &UnixDatagram) -> Vec<u8> {
        let mut buffer = [0; 64];
        let n = listener.recv(&mut buffer).unwrap();
        buffer[..n].to_vec()
    }

    #[test]
    fn the_datagram_is_exact_and_an_absent_listener_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        assert!(notify(path.as_os_str()).is_err());
        let listener = UnixDatagram::bind(&path).unwrap();
        notify(path.as_os_str()).unwrap();
        assert_eq!(received(&listener), b"WATCHDOG=1");
    }

    #[test]
    fn a_listener_that_never_reads_is_an_error_in_the_end_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _listener = UnixDatagram::bind(&path).unwrap();
        let error = (0..1_000_000).find_map(|_| notify(path.as_os_str()).err()).expect("a full queue");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_address_outside_the_file_system_begins_with_an_at_sign() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("ibex-watchdog-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        notify(OsStr::new(&format!("@{name}"))).unwrap();
        assert_eq!(received(&listener), b"WATCHDOG=1");
    }
}

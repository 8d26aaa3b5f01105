//! What the agent tells of the machine it runs on (agent-api §6.1, start-flags §5).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Host name, empty if unknown.
pub(crate) fn hostname() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

/// Free text about the operating system: on Linux all `/etc/*-release` files in the order of their names; on macOS what
/// `sw_vers` says, elsewhere `uname -sr`. Empty if it cannot be read.
pub(crate) fn os_dump() -> String {
    if !cfg!(target_os = "linux") {
        let mut command = std::process::Command::new(if cfg!(target_os = "macos") { "sw_vers" } else { "uname" });
        if !cfg!(target_os = "macos") {
            command.arg("-sr");
        }
        return command.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    }
    let mut files: Vec<std::path::PathBuf> = match std::fs::read_dir("/etc") {
        Ok(entries) => entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.to_string_lossy().ends_with("-release")).collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    files.iter().filter_map(|f| std::fs::read(f).ok()).map(|b| String::from_utf8_lossy(&b).into_owned()).collect()
}

/// The machine id, hidden behind a hash; empty if unknown.
pub(crate) fn machine_id() -> String {
    ["/var/lib/dbus/machine-id", "/etc/machine-id"]
        .iter()
        .find_map(|f| std::fs::read_to_string(f).ok())
        .map(|id| protect(id.trim()))
        .unwrap_or_default()
}

fn protect(id: &str) -> String {
    if id.is_empty() {
        return String::new();
    }
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(id.as_bytes()) else { return String::new() };
    mac.update(b"buildkite-agent");
    mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_id_is_an_hmac_keyed_with_the_id() {
        assert_eq!(protect("0123456789abcdef"), "9256313d74b979e4a96405c7367c0f5c910e1b9ef7a634c2ba1b3bc446b42d53");
        assert_eq!(protect(""), "");
    }
}

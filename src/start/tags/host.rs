//! Tags of the host.

use super::super::facts;
use crate::platform;

/// `hostname=`, `os=`, `arch=`, and `machine-id=` if it is known.
pub(super) fn tags() -> Vec<String> {
    let mut tags = vec![format!("hostname={}", facts::hostname()), format!("os={}", platform::os()), format!("arch={}", platform::arch())];
    let id = facts::machine_id();
    if !id.is_empty() {
        tags.push(format!("machine-id={id}"));
    }
    tags
}

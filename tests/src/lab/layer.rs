//! The least that a layer needs: one link, and a member on either side.

use super::{Host, Link};

impl Link {
    /// Makes the layer `overlay` over it: the second host founds it, as `ovl-b`, and lets the first in, as `ovl-a`.
    pub fn overlay(&self, a: &Host, b: &Host) -> anyhow::Result<()> {
        let shim = "ipcp bootstrap udp --type shim-udp --layer net --ip";
        let (here, there) = (self.ip(0), self.ip(1));
        b.irm(&format!("{shim} {there}"))?;
        a.irm(&format!("{shim} {here} --host ovl-b={there}"))?;
        b.irm("ipcp bootstrap ovl-b --type unicast --layer overlay")?;
        let url = b.irm("layer invite overlay --member ovl-a")?;
        let enroll = "ipcp enroll ovl-a --type unicast --invite";
        a.irm(&format!("{enroll} {}", url.trim()))?;
        Ok(())
    }
}

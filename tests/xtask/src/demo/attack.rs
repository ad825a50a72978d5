//! Somebody takes the hub over, and wants nodes to run what he likes.

use std::fs;

use molt_tests::{Error, Hub, Node};

use super::claims::Claim;
use super::releases::Release;
use super::timeline::Timeline;
use super::{LIMIT, idle_with};

/// A version that is higher than all others.
const EVIL: &str = "666.0.0";

/// He publishes a release and points the nodes to it, which nobody has signed; then he forges the metadata.
pub(super) fn refused(
    timeline: &mut Timeline,
    hub: &Hub,
    node: &Node,
    (old, new): (&Release, &Release),
) -> Result<Claim, Error> {
    timeline.now(
        "attacker",
        format!("owns the hub, publishes {EVIL} there and moves the link of the nodes to it"),
    );
    hub.publish(EVIL, old.payload.directory(), Some("dev"))?;
    let path = hub.block_directory().with_file_name("trust").join("timestamp.json");
    let forge = |source| Error::System { action: format!("forge {}", path.display()), source };
    let good = fs::read_to_string(&path).map_err(forge)?;
    timeline.now("attacker", "forges the metadata that says what is new");
    fs::write(&path, good.replacen("\"version\": ", "\"version\": 9", 1)).map_err(forge)?;
    timeline.wait(node, "the node refuses it", LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if status["gate"] == "Trust" { Ok(()) } else { Err(status.to_string()) }
    })?;
    let why = node.status()?["reason"].as_str().unwrap_or_default().to_owned();
    timeline.now("identityd", why.as_str());
    fs::write(&path, good).map_err(forge)?;
    let installed = timeline.wait(node, "the node goes on", LIMIT, || idle_with(node, new.version));
    timeline.now("node", format!("still runs {}", new.version));
    Ok(Claim {
        name: "what nobody has signed is not installed",
        measured: format!("the link points to {EVIL}, installed is {}", new.version),
        holds: installed.is_ok() && why.contains("signature"),
    })
}

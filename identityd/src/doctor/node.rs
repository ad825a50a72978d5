//! Everything but the files of the state directory.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bootstrap::boot_info::{self, BootInfoError};
use bootstrap::generation::Generation;
use bootstrap::offers::{OffersError, faults};
use bootstrap::settings::{Settings, SettingsError};
use bootstrap::state_place::StatePlace;
use flist::mountinfo::MountLine;
use flist::report;
use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, Uid, access, chown, geteuid};
use zinit_client::{Client, UnitName};

use super::{DoctorError, Finding, Repair};
use crate::timestamp::Timestamp;

/// File systems that something can be staged on. Others are not looked at: a dead server would hold up
/// whoever looks.
const STAGED_ON: [&str; 12] = [
    "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "rootfs", "tmpfs", "vfat", "xfs",
];

/// The directory of staged files at the top of a mount.
const STAGING: &str = ".molt";

/// Where there is no state of a node. Everything else may be in order, and says nothing about this one then.
pub(super) fn no_state(place: &StatePlace) -> Option<Finding> {
    let directory = place.directory();
    // What else it may be is told by its mode.
    let is_absent = directory.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let what = || {
        format!(
            "there is no directory {}, where the state of a node is kept, so nothing can be said of what is installed; on a node with another one give --state-dir; one that bootstrap has never booted has none",
            directory.display()
        )
    };
    is_absent.then(|| Finding::unfixable("no-state", what()))
}

/// What this user may not look at, outside of the state.
pub(super) fn forbidden(settings: &Settings) -> Option<PathBuf> {
    let refuses = |path: &Path, flags| access(path, flags) == Err(Errno::EACCES);
    let files = settings.looked_for().map(|path| (path, AccessFlags::R_OK));
    let others = [
        (settings.cache_dir.as_path(), AccessFlags::W_OK),
        (settings.zinit_socket.as_path(), AccessFlags::W_OK),
    ];
    let found = files.into_iter().chain(others).find(|(path, flags)| refuses(path, *flags));
    found.map(|(path, _)| path.to_owned())
}

/// Private directories that are open to others.
pub(super) fn modes(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in [&settings.state_dir, &settings.run_dir] {
        // What is not there yet is made with the right mode.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let (mode, owner, own) = (metadata.mode() & 0o7777, metadata.uid(), geteuid().as_raw());
        let shown = path.display();
        if !metadata.is_dir() {
            let what = format!("{shown} is not a directory; find out who made it, and remove it");
            findings.push(Finding::unfixable("mode", what));
        } else if mode != 0o700 || owner != own {
            let what = format!("{shown} has mode {mode:o} and belongs to user {owner}, not 700 and {own}");
            let fix = "makes it private to root";
            findings.push(Finding::new("mode", what, (Repair::MakePrivate(path.clone()), fix)));
        }
    }
    findings
}

pub(super) fn make_private(path: &Path) -> Result<(), DoctorError> {
    let failed = |action, source| DoctorError::File { action, path: path.to_owned(), source };
    chown(path, Some(Uid::effective()), None).map_err(|errno| failed("change the owner of", errno.into()))?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(|error| failed("change the mode of", error))
}

/// File systems that upgrades write to.
pub(super) fn read_only(settings: &Settings) -> Vec<Finding> {
    let writes = [
        (&settings.root, "nothing can be upgraded"),
        (&settings.state_dir, "upgrades work from RAM, and what is recorded there is lost at a reboot"),
    ];
    let read_only = writes.into_iter().filter(|(path, _)| {
        statvfs(path.as_path()).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY))
    });
    let what = |(path, then): (&PathBuf, &str)| {
        format!(
            "the file system of {} is read-only: {then}; look into the kernel's log for why, and remount it",
            path.display()
        )
    };
    read_only.map(|found| Finding::unfixable("read-only", what(found))).collect()
}

/// Mounts that a killed bootstrap left.
pub(super) fn stale_mounts(settings: &Settings) -> Vec<Finding> {
    let own = settings.run_dir.join("mnt");
    let stale =
        mounts().into_iter().filter(|mount| mount.kind.starts_with("fuse") && mount.at.starts_with(&own));
    let finding = |mount: MountLine| {
        let what = format!("a flist is mounted on {} although no engine is at work", mount.at.display());
        Finding::new("stale-mount", what, (Repair::Detach(mount.at), "detaches it"))
    };
    stale.map(finding).collect()
}

/// Staged files of a generation that is `nobodys`.
pub(super) fn leftover_staging(settings: &Settings, nobodys: &dyn Fn(u64) -> bool) -> Vec<Finding> {
    let beneath = mounts()
        .into_iter()
        .filter(|mount| mount.at.starts_with(&settings.root) && STAGED_ON.contains(&mount.kind.as_str()));
    let tops: BTreeSet<PathBuf> = beneath.map(|mount| mount.at).chain([settings.root.clone()]).collect();
    let mut findings = Vec::new();
    for top in tops {
        for entry in fs::read_dir(top.join(STAGING)).into_iter().flatten().filter_map(Result::ok) {
            let number = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            if number.is_some_and(nobodys) {
                let path = entry.path();
                let what = format!("{} was staged for a generation that nobody knows", path.display());
                let then = "look into it, and remove it";
                findings.push(Finding::aside("leftover-staging", what, &path, then));
            }
        }
    }
    findings
}

/// What the node was booted from.
pub(super) fn flist_name(settings: &Settings, current: Option<Generation>) -> Option<Finding> {
    let what = match (boot_info::read_name(&settings.root), &current) {
        (Ok(Some(named)), Some(current)) if named != current.channel => {
            format!("/tmp/flist.name says {named}, but this node was installed from {}", current.channel)
        }
        (Ok(Some(_)), _) => return None,
        (Ok(None), _) => "/tmp/flist.name is missing: this node was not booted from a flist, so live upgrade is disabled; `bootstrap` makes it".to_owned(),
        (Err(error @ BootInfoError::NotTrusted { .. }), _) => error.to_string(),
        (Err(error), _) => report(&error),
    };
    let repair = current.map_or(Repair::None, |current| Repair::NameChannel(Box::new(current)));
    let fix = "sets the file aside, if there is one, and writes the channel of the current generation";
    Some(Finding::new("flist-name", what, (repair, fix)))
}

/// Whether somebody would start identityd again.
pub(super) async fn zinit(settings: &Settings) -> Option<Finding> {
    let socket = settings.zinit_socket.display();
    let known = match Client::new(&settings.zinit_socket).list().await {
        Ok(known) => known,
        Err(error) => {
            let what = format!("zinit does not answer on {socket}: {}", report(&error));
            return Some(Finding::unfixable("zinit", what));
        }
    };
    if known.contains_key("identityd") {
        return None;
    }
    let what = "zinit does not monitor identityd: nobody starts it again".to_owned();
    let unit = settings.root.join("etc/zinit/identityd.yaml").exists();
    let name = "identityd".parse::<UnitName>().ok().filter(|_| unit);
    let repair = name.map_or(Repair::None, Repair::Monitor);
    Some(Finding::new("not-monitored", what, (repair, "has zinit monitor identityd")))
}

/// Whether blocks can be kept.
pub(super) fn cache(settings: &Settings) -> Option<Finding> {
    let path = &settings.cache_dir;
    // What is not there yet is made.
    let metadata = fs::metadata(path).ok()?;
    let shown = path.display();
    if !metadata.is_dir() {
        let what = format!("the block cache {shown} is not a directory");
        return Some(Finding::aside("cache", what, path, "a new cache begins empty"));
    }
    let refused = access(path, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).err()?;
    let what = format!("the block cache {shown} cannot be used: {}", refused.desc());
    Some(Finding::unfixable("cache", what))
}

/// Roots of trust that cannot be used, or are gone, so that nothing is installed; in the words in which the gate says it.
pub(super) fn roots_of_trust(settings: &Settings) -> Vec<Finding> {
    let finding = |fault: OffersError| {
        let what = format!("nothing is installed: {}; what is there at the next poll counts", report(&fault));
        Finding::unfixable("trust-damaged", what)
    };
    faults(settings).into_iter().map(finding).collect()
}

/// What keeps identityd from starting: what cannot be used of its settings, or windows that nobody understands, which keep
/// no other program of ours from that.
pub(super) fn configuration(settings: &Settings, unusable: Option<&SettingsError>) -> Option<Finding> {
    let what = match unusable {
        Some(error) => format!(
            "identityd does not start: {}; put it right, then `zinit start identityd`; until then nothing is said of roots of trust and secrets",
            report(error)
        ),
        None => {
            // Without a file everything is as it is by default.
            let text = std::fs::read(&settings.config).ok()?;
            let error = Settings::check(&settings.config, &text).err()?;
            format!(
                "identityd does not start: {}; put it right, then `zinit start identityd`",
                report(&error)
            )
        }
    };
    Some(Finding::unfixable("configuration", what))
}

/// Files with what hubs are shown that cannot be used. Their mode is not changed: who could read them may have done so,
/// and only a person knows.
pub(super) fn secrets(settings: &Settings) -> Option<Finding> {
    let error = settings.hub.shown.read(&settings.hub.urls).err()?;
    let what = format!(
        "no hub is asked: {}; put it right, with `identityd provision --replace` for example, and replace the secret if others may have read it; it is read again at each poll",
        report(&error)
    );
    Some(Finding::unfixable("secret", what))
}

/// Whether the clock can be right: this program was built before now.
pub(super) fn clock(now: SystemTime) -> Option<Finding> {
    let built = fs::metadata("/proc/self/exe").and_then(|metadata| metadata.modified()).ok()?;
    let (now, built) = (Timestamp::from(now), Timestamp::from(built));
    let what = || {
        format!(
            "the clock says {}, which is before this program was built ({}); set the clock",
            now.at, built.at
        )
    };
    (now.unix < built.unix).then(|| Finding::unfixable("clock", what()))
}

/// What is mounted where, as far as /proc tells.
fn mounts() -> Vec<MountLine> {
    flist::mountinfo::mounts().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_clock_before_the_build_is_noticed() {
        let finding = clock(UNIX_EPOCH).unwrap();
        assert!(finding.code == "clock" && finding.what.contains("1970-01-01T00:00:00Z"), "{finding:?}");
        assert_eq!(clock(SystemTime::now()), None);
    }
}

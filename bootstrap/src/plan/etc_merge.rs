//! Configuration in /etc is merged three ways per file. Pure.
//!
//! Base is the file as the installed generation shipped it, user is what the root holds now, new is what
//! the release ships.

use crate::item::Item;

/// What becomes of one configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merge {
    /// What is there is right.
    Nothing,
    /// The release's file is installed (or removed, if it ships none).
    TakeNew,
    /// The user's file stays.
    KeepUser,
    /// The user's file stays, and the release's is put beside it as `.new`.
    KeepUserBeside,
}

/// Decides for one file. Without a base (a first boot) the release wins, because what the base image
/// ships is no user's work.
pub(super) fn merge(base: Option<&Item>, user: Option<&Item>, new: Option<&Item>, first_boot: bool) -> Merge {
    let same = |a: Option<&Item>, b: Option<&Item>| match (a, b) {
        (Some(a), Some(b)) => a.same_as(b),
        (None, None) => true,
        _ => false,
    };
    if same(user, new) {
        Merge::Nothing
    } else if same(base, user) || first_boot {
        Merge::TakeNew
    } else if same(base, new) || new.is_none() || user.is_none() {
        // The user changed or removed it and the release did not, or the release dropped what the user
        // changed, or the user removed what the release changed.
        Merge::KeepUser
    } else {
        Merge::KeepUserBeside
    }
}

#[cfg(test)]
mod tests {
    use flist::tree::Fingerprint;
    use flist::xattr::Xattrs;

    use super::*;
    use crate::item::What;

    fn item(target: &str) -> Item {
        let what = What::Symlink { target: target.as_bytes().to_vec() };
        Item { mode: 0o777, uid: 0, gid: 0, mtime: 0, xattrs: Default::default(), what }
    }

    /// All 27 cases of base, user and new, each absent, `one` or `other`. Rows are by base, groups by user,
    /// letters by new: `=` nothing, `T` take new, `K` keep user, `N` keep user with `.new` beside it.
    fn assert_table(one: &Item, other: &Item) {
        let table = ["=TT K=N KN=", "=KK T=T KK=", "=KK K=K TT="];
        let values = [None, Some(one), Some(other)];
        for (base, row) in values.into_iter().zip(table) {
            for (user, group) in values.into_iter().zip(row.split(' ')) {
                for (new, expected) in values.into_iter().zip(group.chars()) {
                    let letter = match merge(base, user, new, false) {
                        Merge::Nothing => '=',
                        Merge::TakeNew => 'T',
                        Merge::KeepUser => 'K',
                        Merge::KeepUserBeside => 'N',
                    };
                    assert_eq!(letter, expected, "{base:?} {user:?} {new:?}");
                }
            }
        }
    }

    #[test]
    fn the_whole_table() {
        let (a, b, c) = (item("a"), item("b"), item("c"));
        assert_table(&a, &b);
        assert_eq!(merge(Some(&a), Some(&b), Some(&c), false), Merge::KeepUserBeside);
    }

    #[test]
    fn owner_mode_rights_and_kind_count_as_much_as_content() {
        let file = Item {
            what: What::File { size: 0, fingerprint: Fingerprint::of(0, [].into_iter()) },
            ..item("")
        };
        let rights = Xattrs::from([(b"security.capability".to_vec(), vec![1])]);
        let others = [
            Item { mode: 0o600, ..file.clone() },
            Item { uid: 7, ..file.clone() },
            Item { gid: 7, ..file.clone() },
            Item { xattrs: rights, ..file.clone() },
            Item { what: What::Fifo, ..file.clone() },
            item("link"),
        ];
        others.iter().for_each(|other| assert_table(&file, other));
        // A time that differs is no change.
        let later = Item { mtime: 9, ..file.clone() };
        assert_eq!(merge(Some(&file), Some(&later), Some(&file), false), Merge::Nothing);
    }

    #[test]
    fn at_a_first_boot_the_release_wins() {
        let (a, b) = (item("a"), item("b"));
        assert_eq!(merge(None, Some(&a), Some(&b), true), Merge::TakeNew);
    }
}

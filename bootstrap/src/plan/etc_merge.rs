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
    use super::*;
    use crate::item::What;

    fn item(target: &str) -> Item {
        let what = What::Symlink { target: target.as_bytes().to_vec() };
        Item { mode: 0o777, uid: 0, gid: 0, mtime: 0, xattrs: Default::default(), what }
    }

    #[test]
    fn the_whole_table() {
        use Merge::{KeepUser, KeepUserBeside, Nothing, TakeNew};
        let (a, b, c) = (item("a"), item("b"), item("c"));
        let (a, b, c) = (Some(&a), Some(&b), Some(&c));
        // base, user, new
        for (base, user, new, expected) in [
            (None, None, None, Nothing),
            (None, None, a, TakeNew),
            (None, a, None, KeepUser),
            (None, a, a, Nothing),
            (None, a, b, KeepUserBeside),
            (a, None, None, Nothing),
            (a, None, a, KeepUser),
            (a, None, b, KeepUser),
            (a, a, None, TakeNew),
            (a, a, a, Nothing),
            (a, a, b, TakeNew),
            (a, b, None, KeepUser),
            (a, b, a, KeepUser),
            (a, b, b, Nothing),
            (a, b, c, KeepUserBeside),
        ] {
            assert_eq!(merge(base, user, new, false), expected, "{base:?} {user:?} {new:?}");
        }
        assert_eq!(merge(None, a, b, true), TakeNew);
    }
}

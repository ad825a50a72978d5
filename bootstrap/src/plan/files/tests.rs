use super::*;
use crate::item::What;
use crate::root::Stamp;

fn path(text: &str) -> FlistPath {
    text.parse().unwrap()
}

fn item(what: &str) -> Item {
    let what = match what {
        "dir" => What::Directory,
        other => What::Symlink { target: other.as_bytes().to_vec() },
    };
    Item { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: Default::default(), what }
}

fn items(list: &[(&str, &str)]) -> Items {
    list.iter().map(|(at, what)| (path(at), item(what))).collect()
}

fn plan(
    installed: &[(&str, &str)],
    wanted: &[(&str, &str)],
    found: &[(&str, &str)],
) -> Result<FilePlan, PlanError> {
    plan_beside((installed, &[]), wanted, found)
}

/// Paths, and what is at each.
type List<'l> = &'l [(&'l str, &'l str)];

/// As [`plan`], where releases have put this beside configuration.
fn plan_beside(
    (installed, besides): (List<'_>, List<'_>),
    wanted: &[(&str, &str)],
    found: &[(&str, &str)],
) -> Result<FilePlan, PlanError> {
    let wanted = items(wanted).into_iter().map(|(at, item)| (at.clone(), Wanted { item, from: at }));
    let found = items(found).into_iter().map(|(at, item)| {
        let stamp = Stamp { inode: (0, 0), changed: (0, 0), size: 0 };
        let mount_point = at == path("mounted");
        (at, Found { item, leads_to_directory: false, mount_point, stamp })
    });
    let state = StatePaths::with([path("data")]);
    plan_files(
        (&items(installed), &items(besides)),
        &wanted.collect(),
        &found.collect(),
        &state,
        installed.is_empty(),
    )
}

fn told(plan: &FilePlan) -> Vec<String> {
    plan.conflicts.iter().map(ToString::to_string).collect()
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn shown(plan: &FilePlan) -> Vec<String> {
    plan.changes
        .iter()
        .map(|change| match change {
            FileChange::MakeDirectory { path, .. } => format!("mkdir {path}"),
            FileChange::Add { path, .. } => format!("add {path}"),
            FileChange::Replace { path, .. } => format!("replace {path}"),
            FileChange::Remove { path } => format!("remove {path}"),
            FileChange::RemoveDirectory { path, .. } => format!("rmdir {path}"),
        })
        .collect()
}

#[test]
fn order_and_kinds_of_changes() {
    let old = [("a", "dir"), ("a/b", "dir"), ("a/b/gone", "1"), ("bin", "1"), ("same", "1")];
    let new = [
        ("bin", "2"),
        ("etc", "dir"),
        ("etc/zinit", "dir"),
        ("etc/zinit/x.yaml", "u"),
        ("same", "1"),
        ("z", "1"),
    ];
    assert_eq!(
        shown(&plan(&old, &new, &old).unwrap()),
        [
            "mkdir etc",
            "mkdir etc/zinit",
            "replace bin",
            "add z",
            "add etc/zinit/x.yaml",
            "remove a/b/gone",
            "rmdir a/b",
            "rmdir a"
        ]
    );
    assert!(plan(&new, &new, &new).unwrap().changes.is_empty());
}

#[test]
fn configuration_of_the_user_stays() {
    let base = [("etc", "dir"), ("etc/c", "1"), ("lib", "1")];
    let user = [("etc", "dir"), ("etc/c", "mine"), ("lib", "1")];
    let new = [("etc", "dir"), ("etc/c", "2"), ("lib", "2")];
    let merged = plan(&base, &new, &user).unwrap();
    assert_eq!(shown(&merged), ["add etc/c.new", "replace lib"]);
    assert_eq!(told(&merged), ["/etc/c is as somebody has changed it; the release's is /etc/c.new"]);
    let again = [("etc", "dir"), ("etc/c", "mine"), ("etc/c.new", "2"), ("lib", "2")];
    assert!(plan(&base, &new, &again).unwrap().changes.is_empty());
}

/// Each case is what was shipped, what is there, and what the release ships; then what happens.
type Case<'c> = (
    &'c [(&'c str, &'c str)],
    &'c [(&'c str, &'c str)],
    &'c [(&'c str, &'c str)],
    &'c [&'c str],
    &'c [&'c str],
);

#[test]
fn configuration_that_has_become_a_directory_stays_and_so_does_a_directory_that_has_become_a_file() {
    const KEPT: &str = "/etc/c is as somebody has changed it; the release's is /etc/c.new";
    const IN_PLACE: &str = "/etc/c is as somebody has changed it; the release's is not installed: it has a directory there, and files in it";
    let (etc, file, other) = (("etc", "dir"), ("etc/c", "1"), ("etc/c", "2"));
    let (directory, inside, inside_2) = (("etc/c", "dir"), ("etc/c/x", "1"), ("etc/c/x", "2"));
    let cases: [Case<'_>; 9] = [
        // A file that is a directory now.
        (&[etc, file], &[etc, directory], &[etc, file], &[], &[]),
        (&[etc, file], &[etc, directory], &[etc, other], &["add etc/c.new"], &[KEPT]),
        (&[etc], &[etc, directory], &[etc, file], &["add etc/c.new"], &[KEPT]),
        (&[etc, file], &[etc, directory], &[etc], &[], &[]),
        // A directory that is a file now.
        (&[etc, directory, inside], &[etc, other], &[etc, directory, inside], &[], &[]),
        (&[etc, directory, inside], &[etc, other], &[etc, directory, inside_2], &[], &[IN_PLACE]),
        (
            &[etc, directory, inside],
            &[etc, other],
            &[etc, directory, inside, ("etc/c/y", "1")],
            &[],
            &[IN_PLACE],
        ),
        (&[etc], &[etc, other], &[etc, directory, inside], &[], &[IN_PLACE]),
        (&[etc, directory, inside], &[etc, other], &[etc], &[], &[]),
    ];
    for (number, (base, user, new, changes, conflicts)) in cases.into_iter().enumerate() {
        let merged = plan(base, new, user).unwrap();
        assert_eq!((shown(&merged), told(&merged)), (owned(changes), owned(conflicts)), "case {number}");
    }
    // A sibling is none of what is inside.
    let (base, user) = ([etc, directory, inside], [etc, other]);
    let merged = plan(&base, &[etc, directory, inside, ("etc/c.d", "dir"), ("etc/cc", "1")], &user).unwrap();
    assert_eq!(shown(&merged), ["mkdir etc/c.d", "add etc/cc"]);
    // Elsewhere, and where it is the release that makes one of the other, there is no keeping.
    for (base, user, new) in [
        ([("c", "1")], [("c", "dir")], [("c", "1")]),
        ([("c", "dir")], [("c", "1")], [("c", "dir")]),
        ([("etc/c", "1")], [("etc/c", "1")], [("etc/c", "dir")]),
        ([("etc/c", "dir")], [("etc/c", "dir")], [("etc/c", "1")]),
    ] {
        assert!(
            matches!(plan(&base, &new, &user), Err(PlanError::InTheWay { .. })),
            "{base:?} {user:?} {new:?}"
        );
    }
    assert!(plan(&[], &[other], &[directory]).is_err(), "what the base image has is nobody's work");
}

#[test]
fn what_lies_beside_is_replaced_only_if_a_release_has_put_it_there() {
    let (etc, base, mine, new) = (("etc", "dir"), ("etc/c", "2"), ("etc/c", "mine"), ("etc/c", "3"));
    let with = |beside| plan(&[etc, base], &[etc, new], &[etc, mine, ("etc/c.new", beside)]).unwrap();
    assert_eq!(shown(&with("2")), ["replace etc/c.new"], "the one of the release before");
    assert_eq!(shown(&with("3")), Vec::<String>::new());
    let somebodys = with("draft");
    assert_eq!(shown(&somebodys), Vec::<String>::new());
    assert_eq!(
        told(&somebodys),
        [
            "/etc/c is as somebody has changed it; the release's is not installed: /etc/c.new is there already, and nothing that a release has put there"
        ]
    );
}

/// However many releases ago: one that does not have the file any more leaves it there.
#[test]
fn what_lies_beside_goes_on_to_be_a_releases_until_somebody_changes_it() {
    let (etc, mine, beside) = (("etc", "dir"), ("etc/c", "mine"), ("etc/c.new", "2"));
    let (old, new) = (("etc/c", "2"), ("etc/c", "4"));
    let placed = plan(&[etc, ("etc/c", "1")], &[etc, old], &[etc, mine]).unwrap();
    assert_eq!(placed.besides, items(&[beside]));
    // This one has dropped it.
    let dropped = plan_beside((&[etc, old], &[beside]), &[etc], &[etc, mine, beside]).unwrap();
    assert!(dropped.changes.is_empty());
    assert_eq!(dropped.besides, items(&[beside]));
    let again = plan_beside((&[etc], &[beside]), &[etc, new], &[etc, mine, beside]).unwrap();
    assert_eq!(shown(&again), ["replace etc/c.new"]);
    assert_eq!(again.besides, items(&[("etc/c.new", "4")]));

    // What somebody has made of it, or put there, is his.
    for there in [&[etc, mine, ("etc/c.new", "draft")][..], &[etc, mine]] {
        let dropped = plan_beside((&[etc, old], &[beside]), &[etc], there).unwrap();
        assert_eq!(dropped.besides, items(&[]));
    }
    let his = plan_beside((&[etc], &[beside]), &[etc, new], &[etc, mine, ("etc/c.new", "draft")]).unwrap();
    assert_eq!((shown(&his), &his.besides), (Vec::new(), &items(&[])));
    assert!(told(&his)[0].contains("nothing that a release has put there"));
}

#[test]
fn state_is_put_where_nothing_is_and_never_touched_again() {
    let seeds = [
        ("var", "dir"),
        ("var/lib", "dir"),
        ("var/lib/app", "dir"),
        ("var/lib/app/db", "1"),
        ("data", "dir"),
        ("data/x", "1"),
    ];
    let first = plan(&[], &seeds, &[]).unwrap();
    let made =
        ["mkdir data", "mkdir var", "mkdir var/lib", "mkdir var/lib/app", "add data/x", "add var/lib/app/db"];
    assert_eq!(shown(&first), made);
    let used = [
        ("var", "dir"),
        ("var/lib", "dir"),
        ("var/lib/app", "dir"),
        ("var/lib/app/db", "used"),
        ("data", "dir"),
    ];
    let next = [&seeds[..4], &[("data", "dir"), ("data/x", "2"), ("data/new", "2")]].concat();
    // What was taken away stays away, what is new comes.
    assert_eq!(shown(&plan(&seeds, &next, &used).unwrap()), ["add data/new"]);
    assert!(plan(&seeds, &[], &used).unwrap().changes.is_empty());
    assert!(plan(&seeds, &[], &seeds).unwrap().changes.is_empty());
    // Also of a root whose generations were lost.
    assert_eq!(shown(&plan(&[], &seeds, &used).unwrap()), ["add data/x"]);
    assert_eq!(shown(&plan(&[("variable", "1")], &[], &[("variable", "1")]).unwrap()), ["remove variable"]);
}

#[test]
fn a_directory_is_never_replaced() {
    let error = plan(&[], &[("bin", "usr/bin")], &[("bin", "dir")]).unwrap_err();
    assert!(error.to_string().contains("/bin"), "{error}");
    assert!(plan(&[], &[("bin", "dir")], &[("bin", "1")]).is_err());
}

#[test]
fn what_is_mounted_over_stays() {
    let (old, new) = ([("mounted", "1")], [("mounted", "2")]);
    assert!(plan(&old, &old, &old).is_ok());
    assert!(matches!(plan(&old, &new, &old), Err(PlanError::MountPoint(_))));
    assert!(matches!(plan(&old, &[], &old), Err(PlanError::MountPoint(_))));
    // A release that ships nothing there any more leaves the directory to what is mounted on it.
    let old = [("mounted", "dir"), ("mounted/file", "1")];
    assert_eq!(shown(&plan(&old, &[], &old).unwrap()), ["remove mounted/file"]);
}

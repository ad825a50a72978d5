use super::*;

const WHOLE: &str = "\
requires:
  kernel: '5.10'
  architectures: [x86_64]
  memory_mib: 256
  molt: 0.1.0
  installed: 1.0.0
  paths: [/dev/null]
  mounts: [/data]
  writable: [/var/lib/web]
hooks:
  - name: ldconfig
    when: before-start
    run: [/sbin/ldconfig]
    undo: [/sbin/ldconfig]
    timeout: 60
    changes: ['/usr/lib/*']
state:
  schema: 3
  floor: 2
  paths: [/var/lib/web]
  services: [web]
  limit_mib: 16
  migrations:
    - to: 3
      run: [/usr/lib/web/migrate, up]
      undo: [/usr/lib/web/migrate, down]
      timeout: 10
";

fn said(text: &str) -> String {
    crate::report(&parse(text.as_bytes()).unwrap_err())
}

#[test]
fn a_whole_description_is_read_and_survives_being_recorded() {
    let package = parse(WHOLE.as_bytes()).unwrap();
    let hook = &package.hooks[0];
    assert_eq!((hook.when, hook.timeout, hook.changes.len()), (When::BeforeStart, 60, 1));
    let state = package.state.as_ref().unwrap();
    assert_eq!((state.schema, state.floor, state.limit), (3, 2, 16 << 20));
    assert_eq!(state.migration(3).unwrap().undo.as_ref().unwrap().to_string(), "/usr/lib/web/migrate down");
    assert_eq!(package.programs().count(), 4);
    assert!(package.requires.kernel.is_some() && package.requires.asked().count() == 3);
    let package = Package { requires: Requires::default(), ..package };
    let recorded = serde_json::to_string(&package).unwrap();
    assert_eq!(serde_json::from_str::<Package>(&recorded).unwrap(), package);
    assert_eq!(parse(b"").unwrap(), Package::default());
    // What a newer version records beside it.
    let newer = recorded.replacen('{', "{\"colour\":1,", 1);
    assert_eq!(serde_json::from_str::<Package>(&newer).unwrap(), package);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let unknown = said(&WHOLE.replace("limit_mib", "limit"));
    assert!(unknown.contains("unknown field `limit`") && unknown.contains("line 22"), "{unknown}");
    let relative = said(&WHOLE.replace("[/sbin/ldconfig]\n    undo", "[ldconfig]\n    undo"));
    assert!(relative.contains("absolute path of a program") && relative.contains("line 1"), "{relative}");
    let forgotten = said(&WHOLE.replace("    undo: [/sbin/ldconfig]\n", ""));
    assert!(forgotten.contains("missing field `undo`"), "{forgotten}");
    for (from, to, expected) in [
        ("timeout: 60", "timeout: 601", "timeout of hook ldconfig is 601; expected 1 to 600"),
        ("timeout: 10", "timeout: 0", "timeout of migration 3 is 0"),
        ("floor: 2", "floor: 4", "floor is 4; expected 0 to 3"),
        ("to: 3", "to: 4", "to of a migration is 4"),
        ("limit_mib: 16", "limit_mib: 0", "limit_mib is 0"),
        ("paths: [/var/lib/web]", "paths: []", "migrations work on a copy"),
        ("paths: [/var/lib/web]", "paths: [/var]", "/var' is not a package's"),
        ("paths: [/var/lib/web]", "paths: [/var/lib/molt/x]", "is not a package's"),
        ("paths: [/var/lib/web]", "paths: [/var/lib/web, /var/lib/web/a]", "is there twice"),
        ("name: ldconfig", "name: LD", "'LD' is no name"),
        ("kernel: '5.10'", "kernel: new", "is no kernel version"),
        ("before-start", "now", "unknown variant `now`"),
        ("memory_mib: 256", "memory_mib: -1", "memory_mib"),
    ] {
        let changed = WHOLE.replacen(from, to, 1);
        assert_ne!(changed, WHOLE, "{from}");
        let said = said(&changed);
        assert!(said.contains(expected), "{to}: {said}");
    }
}

#[test]
fn everything_has_a_limit() {
    let hooks = |count: usize| {
        let hook = |n| format!("  - {{name: h{n}, when: after-start, run: [/x], undo: []}}\n");
        format!("hooks:\n{}", (0..count).map(hook).collect::<String>())
    };
    assert_eq!(parse(hooks(MAX_ENTRIES).as_bytes()).unwrap().hooks.len(), MAX_ENTRIES);
    assert!(said(&hooks(MAX_ENTRIES + 1)).contains("number of hooks"));
    assert!(said(&hooks(1).replace("/x", &format!("/x{}", ", a".repeat(40)))).contains("1 to 32 words"));
    assert!(said(&"#".repeat(MAX_DESCRIPTION + 1)).contains("at most"));
    assert!(matches!(parse(&[0xff]), Err(PackageError::Text)));
    let twice = hooks(1) + &hooks(1).replacen("hooks:\n", "", 1);
    assert!(said(&twice).contains("the hook is there twice: h0"));
    // Aliases that grow are refused by the YAML reader or by the shape, and never run for long.
    let bomb = (1..9).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
        text + &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", "))
    });
    assert!(parse(bomb.as_bytes()).is_err());
}

#[test]
fn packages_of_one_release_do_not_share_state() {
    let name = |text: &str| text.parse::<PackageName>().unwrap();
    let with = |path: &str| parse(format!("state: {{schema: 1, paths: [{path}]}}").as_bytes()).unwrap();
    let mut packages = BTreeMap::from([(name("a"), with("/var/lib/a")), (name("b"), with("/var/lib/b"))]);
    assert!(in_one_release(&packages).is_ok());
    packages.insert(name("c"), with("/var/lib/a/deep"));
    let (about, error) = in_one_release(&packages).unwrap_err();
    assert_eq!(about, Some(name("c")));
    assert!(error.to_string().contains("package a"), "{error}");
    let many = (0..=MAX_PACKAGES).map(|n| (name(&format!("p{n}")), Package::default())).collect();
    assert!(matches!(in_one_release(&many), Err((None, PackageError::TooMany))));
}

#[test]
fn a_description_is_named_after_its_package() {
    let at = |path: &str| package_at(&path.parse().unwrap()).map(|name| name.to_string());
    assert_eq!(at("usr/lib/molt/packages/web.yaml").as_deref(), Some("web"));
    for other in ["usr/lib/molt/packages/web.yml", "usr/lib/molt/packages/a/b.yaml", "usr/lib/molt/packages"]
    {
        assert_eq!(at(other), None, "{other}");
    }
}

/// Whatever a text becomes by small changes, reading it ends, and what is read is within its limits.
#[test]
fn texts_that_were_changed_at_random_are_refused_or_sound() {
    let mut dice: u64 = 7;
    let mut below = |limit: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % limit
    };
    let pieces: Vec<&[u8]> = WHOLE
        .split_inclusive(['\n', ':', ' '])
        .map(str::as_bytes)
        .chain([&b"\xff"[..], b"- ", b"[", b"&a ", b"*a "])
        .collect();
    let mut read = 0;
    for _ in 0..5000 {
        let mut text = WHOLE.as_bytes().to_vec();
        for _ in 0..=below(3) {
            let at = below(text.len());
            match below(4) {
                0 => text[at] = below(256) as u8,
                1 => drop(text.drain(at..(at + 1 + below(9)).min(text.len()))),
                2 => text.truncate(at.max(1)),
                _ => drop(text.splice(at..at, pieces[below(pieces.len())].to_vec())),
            }
        }
        if let Ok(package) = parse(&text) {
            read += 1;
            assert!(
                package.hooks.len() <= MAX_ENTRIES && package.hooks.iter().all(|hook| hook.timeout <= 600)
            );
            if let Some(state) = package.state {
                assert!(state.floor <= state.schema && state.limit <= MAX_LIMIT_MIB << 20);
                assert!(state.paths.iter().all(|path| path.check_state().is_ok()));
                assert!(state.migrations.is_sorted_by(|a, b| a.to < b.to));
            }
        }
    }
    assert!(read > 100, "{read}");
}

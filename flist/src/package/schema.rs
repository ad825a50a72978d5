//! Which way the layout of a package's state goes, or why it cannot go there.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Command, Package, PackageName, State, Unmet};

/// The layout of a package's state on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is no state: programs make it in the layout that is theirs.
    Fresh,
    /// It has this layout; 0 for state that no release has described.
    At(u32),
    /// There is state, and nobody knows which layout it has.
    Unknown,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To a higher number, by the programs of the release that is installed.
    Up,
    /// To a lower number, by those of the release that is left.
    Down,
}

/// What has to be done to the state of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrate {
    /// The layout that it has afterwards; `None`: nobody says.
    pub to: Option<u32>,
    /// Which way the programs go.
    pub direction: Direction,
    /// What is run, in this order: the number of the migration, its program, and the longest time in seconds.
    pub steps: Vec<(u32, Command, u64)>,
}

/// Why a release could not read the state that there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRefusal {
    /// What kind of thing; the names are stable: `schema-too-old`, `schema-too-new`, `schema-unknown`.
    pub code: String,
    /// The package.
    pub package: String,
    /// The layout of its state; 0 where nobody knows it.
    pub state: u32,
    /// The lowest and the highest layout that the release reads.
    pub reads: (u32, u32),
    /// The migration that is missing, or whose inverse is; 0 where nobody knows which one is needed.
    pub missing: u32,
    /// The directories of the state, where a person has to say which layout they have.
    #[serde(default)]
    pub directories: Vec<String>,
}

impl SchemaRefusal {
    /// The same as a precondition that is not met.
    pub fn as_unmet(&self) -> Unmet {
        let Self { code, package, state, reads: (floor, schema), missing, directories } = self;
        if code == UNKNOWN {
            return Unmet {
                code: code.clone(),
                package: package.clone(),
                need: format!("state of a known schema, or a floor of 0: {}", remedy(directories)),
                have: "state of a schema that nobody knows".to_owned(),
            };
        }
        let way = if code == TOO_NEW { "the inverse of migration" } else { "migration" };
        Unmet {
            code: code.clone(),
            package: package.clone(),
            need: format!("state of schema {floor} to {schema}, or {way} {missing}"),
            have: format!("schema {state}, and no such program"),
        }
    }
}

impl fmt::Display for SchemaRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, package, state, reads: (floor, schema), missing, directories } = self;
        if code == UNKNOWN {
            return write!(
                f,
                "{code}: nobody knows which schema the state of package {package} has, because what was recorded is lost; {}",
                remedy(directories)
            );
        }
        write!(f, "{code}: the state of package {package} has schema {state}, and the release reads ")?;
        match floor == schema {
            true => write!(f, "{schema}")?,
            false => write!(f, "{floor} to {schema}")?,
        }
        match code.as_str() {
            TOO_NEW => write!(f, "; the inverse of migration {missing} would be needed, and there is none"),
            _ => write!(f, "; migration {missing} would be needed, and the release has none"),
        }
    }
}

const TOO_NEW: &str = "schema-too-new";
const TOO_OLD: &str = "schema-too-old";
const UNKNOWN: &str = "schema-unknown";

/// The extended attribute of a directory of state that says which layout it has, in decimal digits; behind it stands
/// the inode number of the directory, and it counts for that one only.
pub const SCHEMA_MARK: &str = "user.molt.schema";

/// The file in a directory of state by which a person says which layout it has, in decimal digits, where nothing else
/// does. It is taken away when that is recorded.
pub const SCHEMA_FILE: &str = ".molt-schema";

/// What a person can do about a layout that nobody knows.
fn remedy(directories: &[String]) -> String {
    let files: Vec<_> = directories.iter().map(|directory| format!("{directory}/{SCHEMA_FILE}")).collect();
    format!("write its number into {}", files.join(" and "))
}

/// The layout that a mark, or a person's file, says of a directory with this inode number; `None` where it says nothing,
/// or was copied here from another directory.
pub fn parse_mark(mark: &[u8], inode: u64) -> Option<u32> {
    let mut words = std::str::from_utf8(mark).ok()?.split_ascii_whitespace();
    let schema = words.next()?.parse().ok()?;
    let here = words.next().is_none_or(|word| word.parse() == Ok(inode));
    (here && words.next().is_none()).then_some(schema)
}

/// The mark of a directory with this inode number.
pub fn mark(schema: u32, inode: u64) -> Vec<u8> {
    format!("{schema} {inode}").into_bytes()
}

/// What has to be done to the state of a package so that `new` can work with it. `old` is the description in the
/// release that is installed: only that one knows the way back.
///
/// A release that does not describe the package says nothing about what it reads: then the state goes back as far
/// as the migrations of `old` go.
///
/// State whose layout nobody knows is never migrated: it is left alone where the release says that it reads every one
/// from the first on.
///
/// # Errors
/// [`SchemaRefusal`].
pub fn migrate(
    package: &PackageName,
    old: Option<&Package>,
    new: Option<&Package>,
    standing: Standing,
) -> Result<Migrate, SchemaRefusal> {
    let old = old.and_then(|package| package.state.as_ref());
    let new = new.and_then(|package| package.state.as_ref());
    let stays = |to| Ok(Migrate { to, direction: Direction::Up, steps: Vec::new() });
    let at = match (standing, new) {
        (Standing::At(at), _) => at,
        (Standing::Fresh, _) | (Standing::Unknown, None) => return stays(new.map(|state| state.schema)),
        (Standing::Unknown, Some(state)) if state.floor == 0 => return stays(Some(state.schema)),
        (Standing::Unknown, Some(state)) => return Err(unknown(package, state)),
    };
    let Some(state) = new else {
        let declared = old.map(|old| old.migrations.iter().filter(|migration| migration.to <= at));
        return match declared.and_then(|mut declared| declared.next()) {
            Some(lowest) => down(package, old, at, (0, lowest.to - 1)),
            None => stays(Some(at)),
        };
    };
    if at > state.schema {
        return down(package, old, at, (state.floor, state.schema));
    }
    let steps: Option<Vec<_>> = (at + 1..=state.schema)
        .map(|to| state.migration(to).map(|found| (to, found.run.clone(), found.timeout)))
        .collect();
    match steps {
        Some(steps) => Ok(Migrate { to: Some(state.schema), direction: Direction::Up, steps }),
        None if state.floor <= at => stays(Some(state.schema)),
        None => {
            let missing = (at + 1..=state.schema).find(|to| state.migration(*to).is_none());
            Err(SchemaRefusal {
                code: TOO_OLD.to_owned(),
                package: package.to_string(),
                state: at,
                reads: (state.floor, state.schema),
                missing: missing.unwrap_or(state.schema),
                directories: Vec::new(),
            })
        }
    }
}

fn unknown(package: &PackageName, state: &State) -> SchemaRefusal {
    SchemaRefusal {
        code: UNKNOWN.to_owned(),
        package: package.to_string(),
        state: 0,
        reads: (state.floor, state.schema),
        missing: 0,
        directories: state.paths.iter().map(ToString::to_string).collect(),
    }
}

fn down(
    package: &PackageName,
    old: Option<&State>,
    at: u32,
    reads: (u32, u32),
) -> Result<Migrate, SchemaRefusal> {
    let to = reads.1;
    let mut steps = Vec::new();
    for number in (to + 1..=at).rev() {
        let found = old.and_then(|old| old.migration(number));
        let undo = found.and_then(|found| Some((number, found.undo.clone()?, found.timeout)));
        steps.push(undo.ok_or_else(|| SchemaRefusal {
            code: TOO_NEW.to_owned(),
            package: package.to_string(),
            state: at,
            reads,
            missing: number,
            directories: Vec::new(),
        })?);
    }
    Ok(Migrate { to: Some(to), direction: Direction::Down, steps })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package with this schema and floor, migrations to these numbers, and inverses of these.
    fn package(schema: u32, floor: u32, migrations: &[u32], inverses: &[u32]) -> Package {
        let mut text =
            format!("state: {{schema: {schema}, floor: {floor}, paths: [/var/lib/web], migrations: [");
        for to in migrations {
            let undo =
                if inverses.contains(to) { format!(", undo: [/m, down, '{to}']") } else { String::new() };
            text += &format!("{{to: {to}, run: [/m, up, '{to}']{undo}}}, ");
        }
        super::super::parse((text + "]}").as_bytes()).unwrap()
    }

    fn said(old: Option<&Package>, new: Option<&Package>, standing: Standing) -> String {
        match migrate(&"web".parse().unwrap(), old, new, standing) {
            Ok(Migrate { to, steps, .. }) => {
                let steps: Vec<_> = steps.iter().map(|(_, command, _)| command.to_string()).collect();
                format!("{to:?} {}", steps.join(", "))
            }
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn the_state_goes_up_by_the_new_release_and_down_by_the_old_one() {
        let (one, three) = (package(1, 1, &[1], &[1]), package(3, 3, &[1, 2, 3], &[2, 3]));
        let at = Standing::At;
        assert_eq!(said(Some(&one), Some(&three), at(1)), "Some(3) /m up 2, /m up 3");
        assert_eq!(said(Some(&one), Some(&three), at(0)), "Some(3) /m up 1, /m up 2, /m up 3");
        assert_eq!(said(Some(&three), Some(&three), at(3)), "Some(3) ");
        assert_eq!(said(Some(&three), Some(&one), at(3)), "Some(1) /m down 3, /m down 2");
        assert_eq!(said(None, Some(&three), Standing::Fresh), "Some(3) ");
        assert_eq!(
            said(Some(&one), Some(&one), at(3)),
            "schema-too-new: the state of package web has schema 3, and the release reads 1; the inverse of migration 3 would be needed, and there is none"
        );
    }

    #[test]
    fn what_a_release_can_read_it_may_get_without_a_migration() {
        let reads = package(5, 3, &[5], &[]);
        assert_eq!(said(None, Some(&reads), Standing::At(3)), "Some(5) ");
        assert_eq!(said(None, Some(&reads), Standing::At(4)), "Some(5) /m up 5");
        let refused = said(None, Some(&reads), Standing::At(2));
        assert!(refused.starts_with("schema-too-old") && refused.contains("migration 3"), "{refused}");
    }

    #[test]
    fn state_whose_layout_nobody_knows_is_left_alone_or_refused() {
        let unknown = |new: Option<&Package>| said(None, new, Standing::Unknown);
        assert_eq!(unknown(Some(&package(3, 0, &[1, 2, 3], &[]))), "Some(3) ");
        assert_eq!(unknown(None), "None ");
        for (floor, migrations) in [(1, &[1, 2, 3][..]), (3, &[])] {
            let refused = unknown(Some(&package(3, floor, migrations, &[])));
            let remedy = "write its number into /var/lib/web/.molt-schema";
            assert!(refused.starts_with("schema-unknown") && refused.ends_with(remedy), "{refused}");
        }
    }

    #[test]
    fn a_mark_counts_for_the_directory_that_it_was_made_for() {
        assert_eq!(parse_mark(&mark(3, 77), 77), Some(3));
        assert_eq!(parse_mark(&mark(3, 77), 78), None);
        assert_eq!(parse_mark(b"4", 77), Some(4), "a person has said it");
        assert_eq!(parse_mark(b" 4\n", 77), Some(4));
        for wrong in [&b""[..], b"x", b"-1", b"4 x", b"4 77 1", b"99999999999", b"\xff"] {
            assert_eq!(parse_mark(wrong, 77), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_release_that_describes_nothing_gets_what_there_was_before_the_migrations() {
        let three = package(3, 1, &[2, 3], &[2, 3]);
        assert_eq!(said(Some(&three), None, Standing::At(3)), "Some(1) /m down 3, /m down 2");
        assert_eq!(said(Some(&package(3, 1, &[], &[])), None, Standing::At(3)), "Some(3) ");
        assert_eq!(said(None, None, Standing::At(3)), "Some(3) ");
        assert_eq!(said(Some(&three), None, Standing::Fresh), "None ");
        let refused = said(Some(&package(3, 1, &[2, 3], &[3])), None, Standing::At(3));
        assert!(refused.contains("the inverse of migration 2"), "{refused}");
    }
}

//! An SQLite file that nobody vouches for: opened so that it is only data, and read column by column. Both formats
//! are made of it.

use std::cell::Cell;

use rusqlite::config::DbConfig;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, ErrorCode, Row};

/// Why a table of a flist cannot be read, or written.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// There are fewer bytes than the header says.
    #[error("it is truncated: {found} of {wanted} bytes are there")]
    Truncated {
        /// Its length in bytes.
        found: u64,
        /// The length by its header, in bytes.
        wanted: u64,
    },
    /// SQLite cannot open or write the file.
    #[error("SQLite cannot {action}")]
    Sqlite {
        /// What was tried.
        action: &'static str,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite cannot read a table: the file is damaged, or the table or a column is missing.
    #[error("SQLite cannot read table {table}")]
    Table {
        /// The table.
        table: &'static str,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// Reading takes far longer than the file is: pages lead to each other.
    #[error("reading it takes more than {steps} steps, which no file of its length needs")]
    Endless {
        /// Instructions of SQLite's machine that it may take.
        steps: u64,
    },
    /// What should be a table is a view, is virtual, or computes its columns.
    #[error("'{table}' is not an ordinary table")]
    NotATable {
        /// The table.
        table: &'static str,
    },
    /// A column holds another type or range than the format says.
    #[error("table {table}, {entry}: column {column} {problem}")]
    Column {
        /// The table.
        table: &'static str,
        /// The row.
        entry: String,
        /// The column.
        column: &'static str,
        /// What is wrong with the value.
        problem: String,
    },
}

/// Length of the header of an SQLite file in bytes.
const HEADER: usize = 100;

/// Instructions of SQLite's machine that reading may take whatever the length, and for each byte. A row takes fewer
/// than twenty, and six bytes at least.
const STEPS: (u64, u64) = (100_000, 16);

/// After how many of them it is looked at the budget.
const STEPS_AT_ONCE: u16 = 1000;

/// An opened flist.
pub(super) struct Database {
    connection: Connection,
    /// Instructions that all statements together may take.
    steps: u64,
    /// Bytes that values can still have: those of an honest file all together are not longer than it.
    unread: Cell<usize>,
}

impl Database {
    /// Opens a copy of these bytes.
    ///
    /// # Errors
    /// [`RowsError::Truncated`] and [`RowsError::Sqlite`].
    pub(super) fn open(bytes: &[u8]) -> Result<Self, RowsError> {
        let found = bytes.len() as u64;
        let wanted = length_by_header(bytes);
        // SQLite takes what is missing in the last page for zeros.
        if found < wanted {
            return Err(RowsError::Truncated { found, wanted });
        }
        let failed = |source| RowsError::Sqlite { action: "open it", source };
        let mut connection = Connection::open_in_memory().map_err(failed)?;
        connection.deserialize_read_exact("main", bytes, bytes.len(), true).map_err(failed)?;
        // A flist is data: nothing of its schema may run.
        for (setting, on) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        ] {
            connection.set_db_config(setting, on).map_err(failed)?;
        }
        // The pages of a small file can lead to each other in more ways than anybody could follow.
        let steps = STEPS.0.saturating_add(STEPS.1.saturating_mul(found));
        let mut left = steps;
        let is_used_up = move || {
            left = left.saturating_sub(STEPS_AT_ONCE.into());
            left == 0
        };
        connection.progress_handler(STEPS_AT_ONCE.into(), Some(is_used_up)).map_err(failed)?;
        Ok(Self { connection, steps, unread: Cell::new(bytes.len()) })
    }

    /// Calls `each` with every row of a table, in the order of the file. Nothing is sorted or counted
    /// before the first row, so `each` can stop a table that is too long.
    ///
    /// # Errors
    /// [`RowsError::NotATable`], [`RowsError::Table`], and those of `each`.
    pub(super) fn for_each_row<E: From<RowsError>>(
        &self,
        table: &'static str,
        columns: &str,
        mut each: impl FnMut(Field<'_, '_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |source| self.unreadable(table, source);
        if !self.is_ordinary_table(table).map_err(failed)? {
            return Err(RowsError::NotATable { table }.into());
        }
        let sql = format!("SELECT {columns} FROM {table}");
        let mut statement = self.connection.prepare(&sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            each(Field { table, row, ino: None, unread: &self.unread })?;
        }
        Ok(())
    }

    /// One column of the row with this number, which is asked for once; `column` is of a table that
    /// [`Database::for_each_row`] has read.
    ///
    /// # Errors
    /// [`RowsError::Table`], [`RowsError::Column`].
    pub(super) fn bytes_at(
        &self,
        table: &'static str,
        column: &'static str,
        rowid: i64,
    ) -> Result<Vec<u8>, RowsError> {
        let failed = |source| self.unreadable(table, source);
        let sql = format!("SELECT {column} FROM {table} WHERE rowid = ?1");
        let mut statement = self.connection.prepare_cached(&sql).map_err(failed)?;
        let mut rows = statement.query([rowid]).map_err(failed)?;
        let missing = || failed(rusqlite::Error::QueryReturnedNoRows);
        let row = rows.next().map_err(failed)?.ok_or_else(missing)?;
        let field = Field { table, row, ino: None, unread: &self.unread };
        Ok(field.bytes(0, column, usize::MAX)?.to_vec())
    }

    /// Whether there is anything of this name.
    ///
    /// # Errors
    /// [`RowsError::Table`].
    pub(super) fn has(&self, table: &'static str) -> Result<bool, RowsError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE)";
        let found = self.connection.query_row(sql, [table], |row| row.get(0));
        found.map_err(|source| self.unreadable(table, source))
    }

    fn unreadable(&self, table: &'static str, source: rusqlite::Error) -> RowsError {
        match source.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => RowsError::Endless { steps: self.steps },
            _ => RowsError::Table { table, source },
        }
    }

    /// Neither a view nor virtual, nor with columns that are computed instead of stored.
    fn is_ordinary_table(&self, table: &str) -> rusqlite::Result<bool> {
        // Both hold where there is no such table at all; reading it tells so better.
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE
                                      AND (type <> 'table' OR rootpage <= 0))
                      AND NOT EXISTS (SELECT 1 FROM pragma_table_xinfo(?1) WHERE hidden <> 0)";
        self.connection.query_row(sql, [table], |row| row.get(0))
    }
}

/// The bytes the file needs to have according to its own header; 0 if the header makes no sense.
fn length_by_header(bytes: &[u8]) -> u64 {
    let Some(header) = bytes.get(..HEADER) else { return HEADER as u64 };
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u64::from(size),
    };
    let counted_for_this_version = number(24) == number(92);
    match u64::from(number(28)) {
        pages if pages > 0 && counted_for_this_version => pages * page_size,
        _ => (bytes.len() as u64).checked_next_multiple_of(page_size).unwrap_or(0),
    }
}

/// One row of a table; reads its columns and names it in errors.
#[derive(Clone, Copy)]
pub(super) struct Field<'r, 's> {
    table: &'static str,
    row: &'r Row<'s>,
    ino: Option<i64>,
    unread: &'r Cell<usize>,
}

impl<'r> Field<'r, '_> {
    /// Names the row in errors from now on.
    pub(super) fn of_inode(self, ino: i64) -> Self {
        Self { ino: Some(ino), ..self }
    }

    pub(super) fn integer(&self, index: usize, column: &'static str) -> Result<i64, RowsError> {
        match self.value(index, column)? {
            ValueRef::Integer(value) => Ok(value),
            other => Err(self.wrong_type(column, other.data_type())),
        }
    }

    pub(super) fn unsigned<T: TryFrom<i64>>(
        &self,
        index: usize,
        column: &'static str,
    ) -> Result<T, RowsError> {
        let value = self.integer(index, column)?;
        T::try_from(value).map_err(|_| self.refuse(column, format!("is out of range: {value}")))
    }

    /// A user or group. The highest number is no owner but means "leave it" to the system.
    pub(super) fn owner(&self, index: usize, column: &'static str) -> Result<u32, RowsError> {
        match self.unsigned(index, column)? {
            u32::MAX => Err(self.refuse(column, format!("is out of range: {}", u32::MAX))),
            id => Ok(id),
        }
    }

    /// Text or bytes, of which each is asked for once.
    pub(super) fn bytes(
        &self,
        index: usize,
        column: &'static str,
        limit: usize,
    ) -> Result<&'r [u8], RowsError> {
        match self.value(index, column)? {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) if bytes.len() > limit => {
                Err(self.refuse(column, format!("has {} bytes, the limit is {limit}", bytes.len())))
            }
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                // Rows of a forged file can lie on the same pages, and be many times as long as it.
                let left = self.unread.get().checked_sub(bytes.len());
                let is_shared = || self.refuse(column, "lies where another row lies".to_owned());
                self.unread.set(left.ok_or_else(is_shared)?);
                Ok(bytes)
            }
            other => Err(self.wrong_type(column, other.data_type())),
        }
    }

    pub(super) fn text(&self, index: usize, column: &'static str, limit: usize) -> Result<String, RowsError> {
        let bytes = self.bytes(index, column, limit)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.refuse(column, "is not UTF-8".to_owned()))
    }

    pub(super) fn digest(&self, index: usize, column: &'static str) -> Result<[u8; 32], RowsError> {
        let bytes = self.bytes(index, column, usize::MAX)?;
        bytes.try_into().map_err(|_| self.refuse(column, format!("has {} bytes, expected 32", bytes.len())))
    }

    fn value(&self, index: usize, column: &'static str) -> Result<ValueRef<'r>, RowsError> {
        self.row.get_ref(index).map_err(|source| self.refuse(column, source.to_string()))
    }

    fn wrong_type(&self, column: &'static str, found: Type) -> RowsError {
        self.refuse(column, format!("holds a value of type {found}"))
    }

    pub(super) fn refuse(&self, column: &'static str, problem: String) -> RowsError {
        let entry = self.ino.map_or_else(|| "a row".to_owned(), |ino| format!("inode {ino}"));
        RowsError::Column { table: self.table, entry, column, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_tells_the_length() {
        let mut header = vec![0; HEADER];
        header[16..18].copy_from_slice(&4096_u16.to_be_bytes());
        header[28..32].copy_from_slice(&3_u32.to_be_bytes());
        assert_eq!(length_by_header(&header), 3 * 4096);
        header[16..18].copy_from_slice(&1_u16.to_be_bytes());
        assert_eq!(length_by_header(&header), 3 * 65_536);
        // Written by an SQLite that did not count pages: whole pages at least.
        header[24] = 1;
        assert_eq!(length_by_header(&header), 65_536);
        header[16..18].fill(0);
        assert_eq!(length_by_header(&header), 0);
        assert_eq!(length_by_header(b"short"), HEADER as u64);
    }

    /// A page of the files below, in bytes.
    const PAGE: usize = 512;

    /// Length of the one long text: 39 bytes of its row are in the cell, the others on further pages.
    const LONG: usize = 2000;

    /// A table of one row with a long text, and of others whose cells have the same length as its cell.
    fn table(rows: u32) -> Vec<u8> {
        let mut connection = Connection::open_in_memory().unwrap();
        let tables =
            format!("PRAGMA page_size = {PAGE}; CREATE TABLE extra (ino INTEGER PRIMARY KEY, data TEXT);");
        connection.execute_batch(&tables).unwrap();
        let (long, short) = ("x".repeat(LONG), "y".repeat(41));
        for ino in 1..=rows {
            let text = if ino == 1 { &long } else { &short };
            connection.execute("INSERT INTO extra VALUES (?1, ?2)", (ino, text)).unwrap();
        }
        connection.serialize("main").unwrap().to_vec()
    }

    /// Lets all rows of the table have the text of the first one, which is there once.
    /// Source: <https://www.sqlite.org/fileformat2.html#b_tree_pages>.
    fn shared(mut file: Vec<u8>) -> Vec<u8> {
        let number = |file: &[u8], at: usize| usize::from(u16::from_be_bytes([file[at], file[at + 1]]));
        let mut long = None;
        for page in (PAGE..file.len()).step_by(PAGE) {
            let cells = if file[page] == 0x0d { number(&file, page + 3) } else { 0 };
            for cell in 0..cells {
                let start = page + number(&file, page + 8 + 2 * cell);
                // Two bytes of length, one of the row's number, 39 of the row, 4 with the number of the next page.
                match long {
                    None => long = Some(<[u8; 46]>::try_from(&file[start..start + 46]).unwrap()),
                    Some(mut long) => {
                        long[2] = file[start + 1];
                        file[start..start + 46].copy_from_slice(&long);
                    }
                }
            }
        }
        file
    }

    #[test]
    fn rows_that_lie_on_the_same_pages_are_refused_before_they_fill_the_memory() {
        let read = |file: &[u8]| {
            let (mut rows, mut bytes) = (0, 0);
            let database = Database::open(file).unwrap();
            let read = database.for_each_row("extra", "ino, data", |field| {
                rows += 1;
                bytes += field.bytes(1, "data", 4096)?.len();
                Ok::<_, RowsError>(())
            });
            (read, rows, bytes)
        };
        let honest = table(100);
        let (all, rows, bytes) = read(&honest);
        assert_eq!((all.is_ok(), rows, bytes), (true, 100, LONG + 99 * 41));

        let forged = shared(honest);
        let (refused, rows, bytes) = read(&forged);
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("lies where another row lies"), "{said}");
        assert!(rows > 2 && bytes <= forged.len(), "{bytes} of {} bytes in {rows} rows", forged.len());
    }
}

//! Blocks behind the Redis protocol: 0-db (`zdb://`), or a Redis server (`redis://`). The key of a block is
//! its raw id, of 32 bytes or, in classic flists, 16.

use std::sync::Mutex;
use std::time::Duration;

use ::redis::{Client, Connection, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, Value};
use reqwest::Url;

use super::{Store, StoreError, one_by_one};
use crate::block::{self, BlockId, MAX_STORED};

/// Port of 0-db where the address names none.
const ZDB_PORT: u16 = 9900;

/// Port of Redis where the address names none.
const REDIS_PORT: u16 = 6379;

/// Port of ARDB where the address names none.
const ARDB_PORT: u16 = 16379;

const CONNECT: Duration = Duration::from_secs(10);

/// A block has at most 600 KiB: a server that sends nothing for so long is gone.
const STALL: Duration = Duration::from_secs(30);

/// Connections that are kept for the next request.
const IDLE: usize = 16;

/// A server with blocks.
pub struct RedisStore {
    client: Client,
    /// Without password.
    url: String,
    /// Longest silence within an answer.
    patience: Duration,
    /// Namespace of 0-db or database of Redis, and the namespace's password.
    select: Option<(String, Option<String>)>,
    idle: Mutex<Vec<Connection>>,
}

impl RedisStore {
    /// Uses the server at `zdb://[:PASSWORD@]HOST[:9900][/NAMESPACE]`, where the password is the
    /// namespace's, or `redis://[USER:PASSWORD@]HOST[:6379][/DATABASE]`. Connects with the first request.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`].
    pub fn new(url: &Url) -> Result<Self, StoreError> {
        Self::with_patience(url, STALL)
    }

    /// As [`RedisStore::new`], but gives up a server that is silent for `patience`.
    ///
    /// # Errors
    /// As [`RedisStore::new`].
    pub fn with_patience(url: &Url, patience: Duration) -> Result<Self, StoreError> {
        let shown = without_password(url);
        let refuse = |reason: &str| StoreError::BadUrl { url: shown.clone(), reason: reason.to_owned() };
        let zdb = url.scheme() == "zdb";
        let host =
            url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| refuse("it names no host"))?;
        let port = url.port().unwrap_or(match url.scheme() {
            "zdb" => ZDB_PORT,
            "ardb" => ARDB_PORT,
            _ => REDIS_PORT,
        });
        let name = url.path().trim_matches('/');
        if name.contains('/') {
            return Err(refuse("expected HOST[:PORT][/NAMESPACE]"));
        }
        let password = url.password().map(str::to_owned);

        // 0-db knows no CLIENT SETINFO, and its password belongs to the namespace.
        let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let (false, Some(password)) = (zdb, &password) {
            login = login.set_password(password);
            if !url.username().is_empty() {
                login = login.set_username(url.username());
            }
        }
        let address = ConnectionAddr::Tcp(host.trim_matches(['[', ']']).to_owned(), port);
        let client = address.into_connection_info().map(|info| info.set_redis_settings(login));
        let client = client.and_then(Client::open).map_err(|error| refuse(&error.to_string()))?;
        let select = (!name.is_empty()).then(|| (name.to_owned(), password.filter(|_| zdb)));
        Ok(Self { client, url: shown, patience, select, idle: Mutex::default() })
    }

    /// Asks once on a kept or a new connection, and returns that too, for [`keep`](Self::keep); a connection
    /// that failed is not used again.
    fn ask<T>(
        &self,
        ask: impl Fn(&mut Connection) -> ::redis::RedisResult<T>,
    ) -> Result<(T, Connection), StoreError> {
        let failed = |source| StoreError::Redis { url: self.url.clone(), source };
        if let Some(mut connection) = self.take()
            && let Ok(answer) = ask(&mut connection)
        {
            // One that failed may have been closed by the server while it was idle.
            return Ok((answer, connection));
        }
        let mut connection = self.connect().map_err(failed)?;
        let answer = ask(&mut connection).map_err(failed)?;
        Ok((answer, connection))
    }

    fn connect(&self) -> ::redis::RedisResult<Connection> {
        let mut connection = self.client.get_connection_with_timeout(CONNECT.min(self.patience))?;
        connection.set_read_timeout(Some(self.patience))?;
        connection.set_write_timeout(Some(self.patience))?;
        if let Some((name, password)) = &self.select {
            ::redis::cmd("SELECT").arg(name).arg(password).exec(&mut connection)?;
        }
        Ok(connection)
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(|poison| poison.into_inner()).pop()
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(|poison| poison.into_inner());
        if idle.len() < IDLE {
            idle.push(connection);
        }
    }
}

impl Store for RedisStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        let get = |connection: &mut Connection| ::redis::cmd("GET").arg(id.as_bytes()).query(connection);
        let (stored, connection): (Option<Vec<u8>>, _) = self.ask(get)?;
        // Behind wrong bytes there may be more of them, which the next request would get as its answer: such
        // a connection is not kept.
        if let Some(stored) = &stored {
            if stored.len() > MAX_STORED {
                return Err(StoreError::TooLong { url: self.url.clone() });
            }
            block::verify(id, stored)
                .map_err(|source| StoreError::Corrupt { url: self.url.clone(), source })?;
        }
        self.keep(connection);
        Ok(stored)
    }

    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        one_by_one(self, ids, buffers)
    }

    fn at_once(&self, _: &[BlockId]) -> usize {
        1
    }

    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        let exists =
            |connection: &mut Connection| ::redis::cmd("EXISTS").arg(id.as_bytes()).query(connection);
        let (exists, connection) = self.ask(exists)?;
        self.keep(connection);
        Ok(exists)
    }

    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError> {
        // Redis says OK, 0-db the key, or nothing when it had the same value already.
        let set = |connection: &mut Connection| {
            ::redis::cmd("SET").arg(id.as_bytes()).arg(stored).query::<Value>(connection)
        };
        let (_, connection) = self.ask(set)?;
        self.keep(connection);
        Ok(())
    }

    fn url(&self) -> String {
        self.url.clone()
    }
}

/// An address as it may be shown.
pub(super) fn without_password(url: &Url) -> String {
    let mut url = url.clone();
    // Fails only for addresses that cannot have one.
    let _ = url.set_password(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(url: &str) -> Result<RedisStore, StoreError> {
        RedisStore::new(&url.parse().unwrap())
    }

    #[test]
    fn addresses_show_no_password() {
        let zdb = store("zdb://:secret@127.0.0.1/blocks").unwrap();
        assert_eq!(zdb.url(), "zdb://127.0.0.1/blocks");
        assert_eq!(zdb.select, Some(("blocks".to_owned(), Some("secret".to_owned()))));
        let redis = store("redis://user:secret@[::1]:7000/3").unwrap();
        assert_eq!(redis.url(), "redis://user@[::1]:7000/3");
        assert_eq!(redis.select, Some(("3".to_owned(), None)));
        let error = store("zdb://:secret@host/a/b").map(drop).unwrap_err().to_string();
        assert!(!error.contains("secret") && error.contains("NAMESPACE"), "{error}");
    }
}

//! Tests that the generated code is that of the schema. `capnp` makes code of a schema by way of a list of its
//! types, and the code holds what was in that list. Where there is a `capnp`, both are compared; elsewhere it must
//! be enough that nobody has changed one of the two files.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use capnp::Word;
use capnp::introspect::{Introspect, TypeVariant};
use capnp::message::{Builder, HeapAllocator, ReaderOptions};
use capnp::schema::{EnumSchema, StructSchema};
use capnp::schema_capnp::{code_generator_request, node};
use capnp::serialize::read_message_from_flat_slice;

use super::classic_capnp::{aci, dir, file, file_block, inode, link, special, sub_dir};

/// BLAKE2b-256 of the schema and of what was generated of it. Who changes the schema generates anew, as the schema
/// says, and has the test with `capnp` pass before this is changed.
const DIGEST: &str = "b1f0a38e892eb6697e6e27c2ee2d0bcbdd5192ef5ee6f0d67a8fed6af3fc8608";

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/classic.capnp");

#[test]
fn schema_and_code_were_changed_together() {
    let code = include_bytes!("classic_capnp.rs");
    let both = [include_bytes!("../../../schema/classic.capnp").as_slice(), code].concat();
    assert_eq!(crate::block::BlockId::of(&both).to_string(), DIGEST);
}

#[test]
fn the_code_is_what_capnp_makes_of_the_schema() {
    let mut capnp = Command::new("capnp");
    capnp.args(["compile", "-o-", "--src-prefix"]).arg(Path::new(SCHEMA).parent().unwrap()).arg(SCHEMA);
    let output = match capnp.output() {
        Ok(output) => output,
        Err(error) => {
            println!("SKIPPED: capnp cannot be run: {error}");
            return;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut words = Word::allocate_zeroed_vec(output.stdout.len().div_ceil(8));
    Word::words_to_bytes_mut(&mut words)[..output.stdout.len()].copy_from_slice(&output.stdout);
    let message =
        read_message_from_flat_slice(&mut Word::words_to_bytes(&words), ReaderOptions::new()).unwrap();
    let request: code_generator_request::Reader<'_> = message.get_root().unwrap();
    let of_schema: BTreeMap<String, Vec<u8>> = request
        .get_nodes()
        .unwrap()
        .iter()
        .filter(|node| matches!(node.which(), Ok(node::Struct(_) | node::Enum(_))))
        .map(described)
        .collect();
    assert_eq!(of_schema, of_code());
}

/// The types that the code has.
fn of_code() -> BTreeMap<String, Vec<u8>> {
    let types = [
        dir::Owned::introspect(),
        inode::Owned::introspect(),
        inode::attributes::Owned::introspect(),
        sub_dir::Owned::introspect(),
        file::Owned::introspect(),
        file_block::Owned::introspect(),
        link::Owned::introspect(),
        special::Owned::introspect(),
        special::Type::introspect(),
        aci::Owned::introspect(),
        aci::right::Owned::introspect(),
    ];
    let node = |of: capnp::introspect::Type| match of.which() {
        TypeVariant::Struct(raw) => StructSchema::from(raw).get_proto(),
        TypeVariant::Enum(raw) => EnumSchema::from(raw).get_proto(),
        other => panic!("{other:?}"),
    };
    types.into_iter().map(node).map(described).collect()
}

/// The name of a type and all that is said of it, as bytes that are the same for the same.
fn described(node: node::Reader<'_>) -> (String, Vec<u8>) {
    let mut message = Builder::new(HeapAllocator::new());
    message.set_root_canonical(node).unwrap();
    let name = node.get_display_name().unwrap().to_string().unwrap();
    (name, message.get_segments_for_output().concat())
}

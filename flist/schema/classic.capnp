# What the rows of a classic flist's table `entries` hold: a Dir for each directory, an Aci for each kind of
# access. The layout is that of flists in the wild, as measured on them; the names are ours, but for those that
# everybody uses.
#
# flist/src/format/classic/classic_capnp.rs is made from this file, and checked in so that a build needs no
# Cap'n Proto compiler. To make it anew, with `capnp` (Debian: capnproto) and `capnpc-rust` (cargo install capnpc):
#
#     capnp compile --src-prefix=flist/schema -orust:flist/src/format/classic flist/schema/classic.capnp

@0xd1f2a7c0b3c94e61;

# For capnpc-rust: where the module is.
annotation parentModule @0xabee386cd1450364 (file) :Text;
$parentModule("format::classic");

struct Dir {
  name             @0 :Text;          # empty for the root
  location         @1 :Text;          # the whole path, without slashes at its ends
  contents         @2 :List(Inode);
  parent           @3 :Text;          # key of the directory above; the root's own for the root
  size             @4 :UInt64;
  aclKey           @5 :Text;          # key of an Aci
  modificationTime @6 :UInt32;        # seconds since 1970
  creationTime     @7 :UInt32;        # st_ctime
}

struct Inode {
  name             @0 :Text;
  size             @1 :UInt64;        # bytes
  attributes :union {
    dir            @2 :SubDir;
    file           @3 :File;
    link           @4 :Link;
    special        @5 :Special;
  }
  aclKey           @6 :Text;
  modificationTime @7 :UInt32;
  creationTime     @8 :UInt32;
}

struct SubDir {
  key    @0 :Text;                    # of a Dir
}

struct File {
  blockSize @0 :UInt16;               # of a full block, in units of 4096 bytes
  blocks    @1 :List(FileBlock);
}

struct FileBlock {
  hash   @0 :Data;                    # id of the stored bytes
  key    @1 :Data;                    # opens them
}

struct Link {
  target @0 :Text;
}

struct Special {
  type   @0 :Type;
  data   @1 :Data;                    # of devices: "major,minor"

  enum Type {
    socket    @0;
    block     @1;
    character @2;
    fifo      @3;
    unknown   @4;
  }
}

struct Aci {
  uname  @0 :Text;
  gname  @1 :Text;
  mode   @2 :UInt16;                  # st_mode without the file type
  rights @3 :List(Right);
  id     @4 :UInt32;
  uid    @5 :Int64 = -1;              # -1: look the name up
  gid    @6 :Int64 = -1;

  struct Right {
    right       @0 :Text;
    userGroupId @1 :UInt16;
  }
}

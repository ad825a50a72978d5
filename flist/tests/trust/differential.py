"""The reference implementation of TUF, as a client of our repositories and as the maker of others.

read URL ROOT TARGET CONTENT   exit 0 when the client accepts the content as the target, 1 when it refuses
write DIR KEYS CUSTOM CONTENT  makes a repository in DIR with the target of CUSTOM (JSON with its path), and keeps its
                               keys in KEYS
sign KEYS ROLE FILE            signs what is in the file anew, whatever it says, with the key of the role
"""

import json
import os
import sys
import tempfile
from datetime import datetime, timedelta, timezone

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp,
)
from tuf.ngclient import Updater


def read(url, root, target, content):
    with tempfile.TemporaryDirectory() as directory:
        with open(root, "rb") as file:
            bootstrap = file.read()
        try:
            updater = Updater(directory, url + "/", bootstrap=bootstrap)
            updater.refresh()
            info = updater.get_targetinfo(target)
            if info is None:
                return 1
            with open(content, "rb") as file:
                info.verify_length_and_hashes(file)
        except Exception as error:  # whatever it is, it is a refusal
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    return 0


def write(directory, keys, custom, content):
    with open(custom) as file:
        wanted = json.load(file)
    with open(content, "rb") as file:
        content = file.read()
    expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=3)
    make = {"root": CryptoSigner.generate_ecdsa, "targets": CryptoSigner.generate_rsa}
    signers = {role: make.get(role, CryptoSigner.generate_ed25519)() for role in ("root", "targets", "snapshot", "timestamp", "prod")}
    root = Root(expires=expires, consistent_snapshot=True)
    for role in ("root", "targets", "snapshot", "timestamp"):
        root.add_key(signers[role].public_key, role)
    prod = Targets(expires=expires)
    target = TargetFile.from_data(wanted["path"], content, ["sha256", "sha512"])
    target.unrecognized_fields["custom"] = wanted["custom"]
    prod.targets[wanted["path"]] = target
    key = signers["prod"].public_key
    role = DelegatedRole("prod", [key.keyid], 1, True, ["prod/*/*"])
    targets = Targets(expires=expires, delegations=Delegations({key.keyid: key}, {"prod": role}))
    snapshot = Snapshot(expires=expires, meta={"targets.json": MetaFile(1), "prod.json": MetaFile(1)})
    timestamp = Timestamp(expires=expires)
    for name, file, signed in (
        ("root", "1.root.json", root), ("targets", "1.targets.json", targets), ("prod", "1.prod.json", prod),
        ("snapshot", "1.snapshot.json", snapshot), ("timestamp", "timestamp.json", timestamp),
    ):
        envelope = Metadata(signed)
        envelope.sign(signers[name])
        envelope.to_file(os.path.join(directory, file))
    for name, signer in signers.items():
        with open(os.path.join(keys, f"{name}.pem"), "wb") as file:
            file.write(signer.private_bytes)
        with open(os.path.join(keys, f"{name}.json"), "w") as file:
            json.dump({"keyid": signer.public_key.keyid, "key": signer.public_key.to_dict()}, file)
    return 0


def sign(keys, role, path):
    with open(os.path.join(keys, f"{role}.json")) as file:
        public = json.load(file)
    public = SSlibKey.from_dict(public["keyid"], public["key"])
    pem = os.path.abspath(os.path.join(keys, f"{role}.pem"))
    signer = CryptoSigner.from_priv_key_uri(f"file2:{pem}", public)
    with open(path) as file:
        signed = json.load(file)["signed"]
    signature = signer.sign(encode_canonical(signed).encode())
    with open(path, "w") as file:
        json.dump({"signed": signed, "signatures": [signature.to_dict()]}, file)
    return 0


sys.exit({"read": read, "write": write, "sign": sign}[sys.argv[1]](*sys.argv[2:]))

"""Tar archives that mean harm or are broken are refused; of the others, places and sizes are those of tarfile."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from samples import config, refusal, tar_samples, write_tar

from raydistill.errors import BadInput
from raydistill.sources.base import open_source
from raydistill.sources.tar import ReadWindow, TarFault, members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def listed(path: Path) -> list[str]:
    return open_source(config("webdataset", path)).list("train").ids.to_pylist()


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    return member


def header(member: tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> bytes:
    return member.tobuf(form)


END = bytes(1024)
SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg", "GNU.sparse.realsize": "9"}


def pax(member: tarfile.TarInfo, **attributes: str) -> bytes:
    member.pax_headers = attributes
    return header(member, tarfile.PAX_FORMAT)


class TestHostileArchives:
    def refused(self, tmp_path: Path, data: bytes) -> str:
        (tmp_path / "train-0.tar").write_bytes(data)
        text = refusal(open_source(config("webdataset", tmp_path)))
        assert str(tmp_path / "train-0.tar") in text and len(text) < 1000
        return text

    @pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "a/..", "..", "./../a.jpg"])
    def test_names_that_lead_out_are_refused(self, tmp_path: Path, name: str) -> None:
        assert "leads out of the archive" in self.refused(tmp_path, header(info(name)) + END)
        assert "leads out of the archive" in self.refused(tmp_path, pax(info("a.jpg"), path=name) + END)

    @pytest.mark.parametrize("name", ["a\nb.jpg", "a\x1b[2J.jpg", "a\tb.jpg", "\x7f.jpg"])
    def test_names_that_would_break_a_line_are_refused(self, tmp_path: Path, name: str) -> None:
        assert "control characters" in self.refused(tmp_path, header(info(name)) + END)

    def test_a_name_that_is_not_utf8_is_refused(self, tmp_path: Path) -> None:
        assert "not UTF-8" in self.refused(tmp_path, info("\udcff.jpg").tobuf(tarfile.USTAR_FORMAT) + END)

    @pytest.mark.parametrize(
        ("member", "what"),
        [
            (info("a.jpg", tarfile.SYMTYPE, link="/etc/passwd"), "a symbolic link"),
            (info("a.jpg", tarfile.LNKTYPE, link="b.jpg"), "a hard link"),
            (info("a.jpg", tarfile.CHRTYPE), "a device"),
            (info("a.jpg", tarfile.BLKTYPE), "a device"),
            (info("a.jpg", tarfile.FIFOTYPE), "a pipe"),
            (info("a.jpg", tarfile.GNUTYPE_SPARSE), "a sparse file"),
            (info("a.jpg", b"V"), "of the unknown kind"),
        ],
    )
    def test_what_is_no_plain_file_is_refused(self, tmp_path: Path, member: tarfile.TarInfo, what: str) -> None:
        assert f"'a.jpg' is {what}" in self.refused(tmp_path, header(member) + END)

    def test_a_sparse_file_of_the_posix_kind_is_refused(self, tmp_path: Path) -> None:
        assert "a sparse file" in self.refused(tmp_path, pax(info("a.jpg"), **SPARSE) + END)

    @pytest.mark.parametrize("size", [2**28 + 1, 2**33, 2**60])
    def test_a_huge_file_is_refused_by_what_it_declares(self, tmp_path: Path, size: int) -> None:
        assert f"declares {size} bytes" in self.refused(tmp_path, header(info("a.jpg", size=size)) + END)
        assert f"declares {size} bytes" in self.refused(tmp_path, pax(info("a.jpg"), size=str(size)) + END)

    @pytest.mark.parametrize("kind", [b"L", b"x", b"g"])
    def test_a_huge_extended_header_is_refused_unread(self, tmp_path: Path, kind: bytes) -> None:
        assert "an extended header declares" in self.refused(tmp_path, header(info("a", kind, 2**40)) + END)

    def test_endless_extended_headers_are_refused(self, tmp_path: Path) -> None:
        long_name = header(info("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2)) + b"a\0".ljust(512, b"\0")
        assert "more than 4 extended headers" in self.refused(tmp_path, long_name * 9 + END)

    @pytest.mark.parametrize(
        "record",
        [
            b"9 path=x",
            b"0 path=x\n",
            b"99999999 path=x\n",
            b"path=x\n",
            b"8 path=x\n",
            b"\xff\xff",
            b"12 size=-100\n",
            b"11 size=1e9\n",
        ],
    )
    def test_damaged_attributes_are_refused(self, tmp_path: Path, record: bytes) -> None:
        data = header(info("p", b"x", len(record))) + record.ljust(512, b"\0") + header(info("a.jpg")) + END
        assert "extended header" in self.refused(tmp_path, data)

    def test_attributes_for_all_files_may_not_rename_them(self, tmp_path: Path) -> None:
        record = b"17 path=../x.jpg\n"
        data = header(info("p", b"g", len(record))) + record.ljust(512, b"\0") + header(info("a.jpg")) + END
        assert "one path to all its files" in self.refused(tmp_path, data)

    @pytest.mark.parametrize(
        ("data", "what"),
        [
            (gzip.compress(bytes(1024), mtime=0), "compressed with gzip"),
            (b"BZh91AY", "compressed with bzip2"),
            (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed with zstd"),
            (b"", "it is empty"),
            (b"<html>not found</html>", "truncated"),
            (b"<html>" * 200, "no tar"),
            (b"\xff" * 2048, "no tar"),
        ],
    )
    def test_what_is_no_tar_is_refused(self, tmp_path: Path, data: bytes, what: str) -> None:
        assert what in self.refused(tmp_path, data)

    def test_a_zip_archive_by_another_name_is_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "train-0.tar", "w") as archive:
            archive.writestr("a.jpg", b"x")
        assert "a zip archive" in refusal(open_source(config("webdataset", tmp_path)))

    def test_archives_strung_together_are_refused(self, tmp_path: Path) -> None:
        one = write_tar(tmp_path / "train-0.tar", tar_samples(0)).read_bytes()
        assert "more follows its end" in self.refused(tmp_path, one + one)

    def test_cut_anywhere_before_its_end_it_is_refused(self, tmp_path: Path) -> None:
        whole = write_tar(tmp_path / "train-0.tar", tar_samples(0)).read_bytes()
        with tarfile.open(tmp_path / "train-0.tar") as archive:
            archive.getmembers()
            end = archive.offset
        for length in [*range(1, end, 97), *range(512, end + 1, 512), end + 511]:
            assert "truncated" in self.refused(tmp_path, whole[:length])
        (tmp_path / "train-0.tar").write_bytes(whole[: end + 512])
        assert len(listed(tmp_path)) == 5

    def test_no_flipped_byte_of_a_header_passes_for_something_else(self, tmp_path: Path) -> None:
        whole = write_tar(tmp_path / "train-0.tar", tar_samples(0)).read_bytes()
        expected = listed(tmp_path)
        for position in range(512):
            changed = bytearray(whole)
            changed[position] ^= 1
            (tmp_path / "train-0.tar").write_bytes(changed)
            try:
                assert listed(tmp_path) == expected
            except BadInput as e:
                assert "train-0.tar" in str(e)


class TestAgainstTheStandardLibrary:
    @pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
    def test_places_and_sizes_agree(self, tmp_path: Path, form: int) -> None:
        rng = random.Random(form)
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w", format=form) as archive:
            for i in range(60):
                if rng.random() < 0.2:
                    archive.addfile(info(f"d{i}/", tarfile.DIRTYPE))
                long = "/".join("é"[: form % 2] + "n" * rng.randrange(1, 40) for _ in range(rng.randrange(1, 5)))
                data = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 5000]))
                archive.addfile(info(f"{long}/{i}.jpg", size=len(data)), io.BytesIO(data))
        with tarfile.open(path) as archive, open(path, "rb") as file:
            expected = [(m.name, m.offset, m.offset_data, m.size) for m in archive if m.isreg()]

            class File:
                def read_at(self, length: int, offset: int) -> bytes:
                    file.seek(offset)
                    return file.read(length)

            window = ReadWindow(File(), path.stat().st_size, 700)
            assert [(m.name, m.start, m.data, m.size) for m in members(window)] == expected

    def test_random_bytes_never_do_more_than_be_refused(self) -> None:
        rng = random.Random(0)
        good = header(info("a.jpg", size=3)) + b"abc".ljust(512, b"\0") + pax(info("b.jpg"), path="ü" * 200) + END
        for _ in range(3000):
            data = bytearray(good)
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            data = data[: rng.randrange(1, len(data) + 1)]

            class File:
                def read_at(self, length: int, offset: int, held: bytes = bytes(data)) -> bytes:
                    return held[offset : offset + length]

            try:
                for m in members(ReadWindow(File(), len(data), 512)):
                    assert m.data + m.size <= len(data)
            except TarFault as e:
                assert "\n" not in str(e)

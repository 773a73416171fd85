import json
import os

import numpy as np
import pytest
import xarray as xr

from uqms.errors import InputError, OutputError, PathError, UnsafeFileError
from uqms.simulators.contract import checked_outputs
from uqms.simulators.executable.result_readers import JSONFile, NetCDFFile, Reader, TextTable
from uqms.simulators.executable.tables import number, parse

SCALAR, CURVE = {"y": ()}, {"y": ("t",)}


@pytest.fixture
def put(tmp_path):
    def write(data, name="out"):
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return tmp_path

    return write


def equal(got, **wanted):
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(np.asarray(got[name], dtype=float), value)


# ---------------------------------------------------------------------------------------------------------------- JSON
def test_json_by_name_by_place_and_bare(put):
    folder = put(json.dumps({"y": 1.5, "flow": {"peak": [1, {"q": 2.5}], "p.mean": 3}, "curve": [1, 2.25]}))
    equal(JSONFile("out").read(folder, {"y": (), "curve": ("t",)}), y=1.5, curve=[1, 2.25])
    keys = {"q": "flow.peak.1.q", "p": ("flow", "p.mean"), "first": ("flow", "peak", 0)}
    equal(JSONFile("out", keys).read(folder, dict.fromkeys(keys, ())), q=2.5, p=3.0, first=1.0)
    equal(JSONFile("out").read(put("[1, 2]"), CURVE), y=[1.0, 2.0])
    equal(JSONFile("out").read(put("12345678901234567890123"), SCALAR), y=1.2345678901234568e22)


def test_json_leaves_out_what_it_does_not_have(put):
    folder = put('{"y": 1, "a": {"b": [1]}}')
    equal(JSONFile("out").read(folder, {"y": (), "z": ()}), y=1)
    for place in ("a.c", "a.b.1", "a.b.-1", "a.b.0.0", "b"):
        with pytest.raises(OutputError, match="out holds y, a, but none of the outputs y at its place"):
            JSONFile("out", {"y": place}).read(folder, SCALAR)


def test_json_passes_on_what_is_not_finite(put):
    got = JSONFile("out").read(put('{"y": [NaN, Infinity, -Infinity, null, 1e999, 1]}'), CURVE)
    equal(got, y=[np.nan, np.inf, -np.inf, np.nan, np.inf, 1.0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"y": [1, 2', r"out is not JSON \(Expecting ',' delimiter: line 1 column 12 \(char 11\)\); it begins with"),
        (b"\x00\x01\x02\xff" * 20, "out is not JSON .* it begins with the bytes 00 01 02 ff"),
        (b"\x89HDF\r\n\x1a\n", "begins with the bytes 89 48 44 46"),
        ("y = 3", "begins with 'y = 3'"),
        ('{"y": 1, "y": 2}', "holds 'y' twice"),
        ("[" * 100_000, "is not JSON"),
        ('{"y": nano}', "is not JSON .* begins with '{\"y\": nano}'"),
        ('{"y": nan, "y": 2}', "holds 'y' twice"),
    ],
)
def test_damaged_json(put, data, message):
    with pytest.raises(OutputError, match=message):
        JSONFile("out").read(put(data), SCALAR)


def test_numbers_as_c_writes_them(put):
    text = '{"y": [nan, -nan, inf, -inf, NAN, -Infinity, 1], "t \\" nan": "inf nan", "x": 2}'
    got = JSONFile("out").read(put(text), {**CURVE, "x": ()})
    equal(got, y=[np.nan, np.nan, np.inf, -np.inf, np.nan, -np.inf, 1], x=2)
    assert JSONFile("out", {"y": ('t " nan',)}).read(put(text), SCALAR) == {"y": "inf nan"}


def test_true_and_false_are_no_numbers(put):
    got = JSONFile("out").read(put('{"y": [1.0, true], "x": 2}'), {**CURVE, "x": ()})
    with pytest.raises(OutputError, match=r"output 'y' has dtype <U.* must be real numbers") as caught:
        checked_outputs(got, {**CURVE, "x": ()}, {"t": np.arange(2.0)})
    assert caught.value.partial["x"] == 2.0


def test_json_has_the_coordinates_at_its_top(put):
    folder = put('{"r": {"y": [1, 2], "t": [7, 8]}, "t": [0, 0.5], "s": [1]}')
    equal(JSONFile("out", {"y": "r.y"}).read(folder, CURVE), y=[1, 2], t=[0, 0.5])
    equal(JSONFile("out").read(put('{"y": [1, 2], "t": 3.0}'), CURVE), y=[1, 2])  # a number is no list of places


@pytest.mark.parametrize(
    ("reader", "places"),
    [
        (JSONFile, {"y": 0}),
        (JSONFile, {"y": ()}),
        (JSONFile, {"y": ("a", True)}),
        (NetCDFFile, {"y": 0}),
        (JSONFile, {}),
    ],
)
def test_places_that_cannot_be_meant(reader, places):
    with pytest.raises(InputError, match="(keys|variables) (has 'y' =|is)"):
        reader("out", places)


# ---------------------------------------------------------------------------------------------------------------- text
def test_columns_by_name_by_number_and_in_order(put):
    folder = put("t,p,label\n0.0,1.5,a\n0.5,2.5,b\n", "out.csv")
    time = [0, 0.5]  # the coordinates of the dim, to be compared
    equal(TextTable("out.csv").read(folder, {"p": ("t",), "q": ("t",)}), p=[1.5, 2.5], t=time)
    equal(TextTable("out.csv", {"y": "t"}).read(folder, {"y": ("x",)}), y=[0, 0.5])
    equal(TextTable("out.csv", {"y": 1}).read(folder, CURVE), y=[1.5, 2.5], t=time)
    equal(TextTable("out.csv", {"y": -2, "z": 9}).read(folder, {**CURVE, "z": ("t",)}), y=[1.5, 2.5], t=time)
    folder = put("1 2\n3 4\n")
    equal(TextTable("out", header=False).read(folder, {"a": ("t",), "b": ("t",)}), a=[1, 3], b=[2, 4])


def test_several_columns_are_the_last_dim(put):
    folder = put("t p1 p2\n0 1 2\n1 3 4\n")
    equal(TextTable("out", {"p": ["p1", "p2"]}).read(folder, {"p": ("t", "x")}), p=[[1, 2], [3, 4]], t=[0, 1])
    equal(TextTable("out", {"p": ["p2", 0]}, row=-1).read(folder, {"p": ("x",)}), p=[4, 1])


def test_a_scalar_is_the_only_row_or_the_chosen_one(put):
    equal(TextTable("out").read(put("a y\n1 2\n"), SCALAR), y=2)
    folder = put("a y\n1 2\n3 4\n")
    with pytest.raises(OutputError, match=r"out has 2 rows, but 'y' is one value of each run; .* row=-1"):
        TextTable("out").read(folder, SCALAR)
    equal(TextTable("out", row=-1).read(folder, SCALAR), y=4)
    equal(TextTable("out", row=0).read(folder, SCALAR), y=2)
    with pytest.raises(OutputError, match="none with the number 5"):
        TextTable("out", row=5).read(folder, SCALAR)


@pytest.mark.parametrize(
    "text",
    [
        "# made by solver\n# t y\n 0 1.5 # first\n\n 1 2.5\n",
        "# made by solver\nt y\n0 1.5\n1 2.5\r",
        "\ufefft y\r\n0 1.5\r\n1 2.5\r\n",
        "#t\ty\n0\t1.5D0\n1\t0.25D+1\n",
        "# made of\n# t y\n# s mm\n0 1.5\n1 2.5\n",
        "# made of\nt y\n0 1.5\n1 2.5\n",
        "# t y\nt y\n0 1.5\n1 2.5\n",
        "# z y\n t y\n0 1.5\n1 2.5\n".replace("z y", "x x"),
    ],
)
def test_headers_as_programs_write_them(put, text):
    equal(TextTable("out").read(put(text), CURVE), y=[1.5, 2.5], t=[0, 1])


def test_layouts(put):
    equal(TextTable("out.csv").read(put('"a, b","y"\n"1","2"\n', "out.csv"), SCALAR), y=2)
    equal(TextTable("out.tsv").read(put("a b\ty\n1\t2\n", "out.tsv"), SCALAR), y=2)
    equal(TextTable("out", delimiter=";").read(put("a;y\n1;2\n"), SCALAR), y=2)
    equal(TextTable("out", skip=2).read(put("solver 1.0\nrun 3\na y\n1 2\n"), SCALAR), y=2)
    equal(TextTable("out", comment="!").read(put("! a y\n1 2\n"), SCALAR), y=2)
    equal(TextTable("out", comment=None, header=False).read(put("7\n"), SCALAR), y=7)
    equal(TextTable("out").read(put("# t word y\n0 abc 2\n"), SCALAR), y=2)


def test_numbers_as_fortran_writes_them(put):
    got = TextTable("out", header=False).read(put("1.5D-3\n.5-104\n-1.25+101\n******\nNaN\n-Infinity\n1.d0\n"), CURVE)
    equal(got, y=[1.5e-3, 0.5e-104, -1.25e101, np.nan, np.nan, -np.inf, 1.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t y\n0 1\n1\n", "out, line 3 has 1 columns instead of 2; was the file cut off?"),
        ("t y\n0 12.5\n1 12", "out does not end with the end of a line .*: was it cut off?.* final_newline=False"),
        ("t y y\n0 1 2\n", "out has two columns 'y'; choose one by its number"),
        ("t t y\n0 1 2\n", "out has two columns 't'"),
        ("# t y\n# y t\n0 1\n", "out has no clear header: 't y' and 'y t' may name its columns"),
        ("# y at nodes\nnode 1 y\nA 1 2\n", r"no clear header: 'y at nodes' and 'node 1 y' .*line 2 is the first"),
        ("# t y\ns mm\n0 1\n", "out, line 2, column 'y': 'mm' is not a number"),
        ("t y\n", "out has no row of numbers"),
        ("# nothing\n\n", "out has no row of numbers"),
        ("0 1\n1 2\n", r"out has no header that names its 2 columns \(found: ''\)"),
        ("t y z\n0 1\n", r"no header that names its 2 columns \(found: 't y z'\)"),
        ("t y\n0 one\n", "out, line 2, column 'y': 'one' is not a number"),
        ("t y\n0 1_000\n", "'1_000' is not a number"),
        (b"\x7fELF\x00\x01\x02", "out is no text; it begins with the bytes 7f 45 4c 46"),
        (b"\xff\xfe\xff\xfe \xff\n\xff \xff\n", "holds \ufffd\ufffd\ufffd\ufffd, \ufffd, but none of the outputs y"),
        ("a b\n0 1\n", "out holds a, b, but none of the outputs y at its place"),
    ],
)
def test_damaged_tables(put, text, message):
    with pytest.raises(OutputError, match=message):
        TextTable("out").read(put(text), CURVE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"y": "t"}, "header": False}, "columns names 't', but header=False"),
        ({"columns": {"y": ["t", 1]}, "header": False}, "columns names 't'"),
        ({"columns": ["t"]}, "columns is"),
        ({"delimiter": ", "}, "delimiter is ', '"),
        ({"skip": -1}, "skip is -1"),
        ({"skip": True}, "skip is True"),
        ({"row": "last"}, "row is 'last'; give a number from 0, or -1 for the last row"),
        ({"row": True}, "row is True"),
        ({"row": 1.0}, "row is 1.0"),
        ({"columns": {"y": True}}, "columns has 'y' = True; give a name, a number from 0 or a list of them"),
        ({"columns": {"y": 1.0}}, "columns has 'y' = 1.0"),
        ({"columns": {"y": []}}, r"columns has 'y' = \[\]"),
        ({"columns": {"y": ["t", True]}}, "columns has 'y'"),
    ],
)
def test_tables_that_cannot_be_meant(options, message):
    with pytest.raises(InputError, match=message):
        TextTable("out", **options)


def test_a_table_by_numbers_needs_titles_only_when_lines_can_be_meant_in_two_ways(put):
    by_number = TextTable("out", {"y": 1}, row=0)
    equal(by_number.read(put("# pressure at nodes\n# a b c\n1 2 3\n"), SCALAR), y=2)
    equal(by_number.read(put("# made by me\nt y z\n1 2 3\n"), SCALAR), y=2)
    equal(by_number.read(put("# 1 2 3\n1 2 3\n"), SCALAR), y=2)
    for text in ("# pressure at nodes (mmHg)\nnode 1 2 3\nA 10 20 30\n", "node 1 2 3\nA 10 20 30\n"):
        with pytest.raises(OutputError, match=r"no clear header: 'node 1 2 3' may name its columns or not"):
            by_number.read(put(text), SCALAR)
    equal(TextTable("out", {"y": 1}, header=False, skip=2).read(put("# x\nnode 1 2 3\nA 10 20 30\n"), SCALAR), y=10)


def test_columns_in_order_are_all_columns(put):
    with pytest.raises(OutputError, match=r"3 columns, but there are 2 outputs \(a, b\).*columns=\{'a': 0\}"):
        TextTable("out", header=False).read(put("1 2 3\n"), {"a": (), "b": ()})
    equal(TextTable("out", {"a": 0, "b": 1}, header=False).read(put("1 2 3\n"), {"a": (), "b": ()}), a=1, b=2)


def test_a_program_may_leave_out_the_last_end_of_line(put):
    equal(TextTable("out", final_newline=False).read(put("y\n1.5"), SCALAR), y=1.5)


def test_lines_of_messages_count_from_the_top_of_the_file(put):
    with pytest.raises(OutputError, match="out, line 5, column 'y': 'x' is not a number"):
        TextTable("out", skip=2).read(put("solver 1\nrun\ny\n1\nx\n"), CURVE)


def test_a_byte_order_mark_is_no_part_of_the_first_title(put):
    equal(TextTable("out.csv").read(put("\ufeffy,z\n1,2\n", "out.csv"), SCALAR), y=1)


def test_numpy_reads_no_table_that_we_would_refuse(put):
    cells = [
        "1",
        "-2.5e3",
        " 3 ",
        "NaN",
        "inf",
        "+.5",
        "1_0",
        "0x1p3",
        "1e",
        "",
        "1d2",
        "****",
        "1.0-100",
        "nan(1)",
        "1j",
    ]
    rng = np.random.default_rng(1)
    for delimiter in (None, ","):
        for _ in range(200):
            row = [str(cell) for cell in rng.choice(cells, 3)]
            text = (delimiter or " ").join(["1", *row]) + "\n"
            wanted = [number(cell) for cell in (text.split(delimiter))]
            try:
                got = parse(text, "out", delimiter, False, None, 0).numbers(range(len(wanted)))
            except OutputError:
                assert None in wanted
            else:
                np.testing.assert_array_equal(got, [wanted])


# -------------------------------------------------------------------------------------------------------------- netCDF
@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_netcdf(tmp_path, engine):
    data = xr.Dataset(
        {"field": (("x", "t"), np.arange(6.0).reshape(2, 3)), "y": ((), 4.5), "n": ("x", np.array([1, -9], np.int32))},
        coords={"t": ("t", [0.0, 1.0, 2.0], {"units": "days since 2000-01-01"})},
    )
    data["n"].attrs["_FillValue"] = np.int32(-9)
    data.to_netcdf(tmp_path / "out.nc", engine=engine)
    outputs = {"p": ("t", "x"), "y": (), "n": ("cell",), "z": ()}
    got = NetCDFFile("out.nc", {"p": "field", "y": "y", "n": "n"}).read(tmp_path, outputs)
    assert got["p"].dims == ("x", "t")  # brought into order where the coordinates are known
    np.testing.assert_array_equal(got["p"].coords["t"], [0.0, 1.0, 2.0])
    equal({"y": got["y"], "n": got["n"]}, y=4.5, n=[1.0, np.nan])
    assert set(NetCDFFile("out.nc").read(tmp_path, outputs)) == {"y", "n"}


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_netcdf(tmp_path, engine, share):
    xr.Dataset({"y": ("t", np.random.default_rng(1).random(5000))}).to_netcdf(tmp_path / "out.nc", engine=engine)
    data = (tmp_path / "out.nc").read_bytes()
    (tmp_path / "out.nc").write_bytes(data[: int(share * len(data))])
    with pytest.raises(OutputError, match="out.nc is not a whole netCDF file"):
        NetCDFFile("out.nc").read(tmp_path, CURVE)


def test_other_files_are_no_netcdf(put):
    for data in (b"\0" * 100, b"hello", b"CDF\x01garbage", b"CDF\x02" + b"\x7f" * 200):
        with pytest.raises(OutputError, match="out is not a whole netCDF file"):
            NetCDFFile("out").read(put(data), SCALAR)


def test_netcdf_that_reads_other_files_is_refused(tmp_path):
    import h5py

    (tmp_path / "secret").write_bytes(np.arange(4.0).tobytes())
    with h5py.File(tmp_path / "out.nc", "w") as file:
        file.create_dataset("y", (4,), "f8", external=[(str(tmp_path / "secret"), 0, 32)])
    with pytest.raises(UnsafeFileError, match="are in other files"):
        NetCDFFile("out.nc").read(tmp_path, CURVE)


# ----------------------------------------------------------------------------------------------------------- any reader
READERS = [JSONFile, TextTable, NetCDFFile]


@pytest.mark.parametrize("reader", READERS)
def test_readers_follow_the_protocol(reader):
    assert isinstance(reader("a/b.out"), Reader)
    assert reader("./a//b.out").path == "a/b.out"
    assert reader("a").names is None
    assert reader("a", {"y": "place"}).names == ("y",)
    assert hash(reader("a"))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../out", "a/../../out", "a/..", "", " ", ".", "a\0b", "C:\\x", "dir/", None]
)
def test_paths_that_lead_out(reader, path):
    with pytest.raises(PathError, match="path is"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_files_that_are_not_there_empty_or_too_large(reader, put, tmp_path):
    with pytest.raises(OutputError, match="the run left no out; it left nothing"):
        reader("out").read(tmp_path, SCALAR)
    put("", "other")
    with pytest.raises(OutputError, match="the run left no out; it left other"):
        reader("out").read(tmp_path, SCALAR)
    with pytest.raises(OutputError, match="other is empty"):
        reader("other").read(tmp_path, SCALAR)
    put("1" * 2000, "large")
    with pytest.raises(OutputError, match=r"large holds 0 MB, more than the 0 MB that may be read"):
        reader("large", size_limit=1999).read(tmp_path, SCALAR)


@pytest.mark.parametrize("reader", READERS)
def test_links_pipes_and_folders(reader, put, tmp_path):
    outside, inside = tmp_path / "secret", tmp_path / "run"
    outside.write_text("[1]")
    inside.mkdir()
    (inside / "out").symlink_to(outside)
    (inside / "sub").symlink_to(tmp_path)
    for path in ("out", "sub/secret"):
        with pytest.raises(PathError, match=f"{path} is a link that leads out of the run directory"):
            reader(path).read(inside, SCALAR)
    (inside / "loop").symlink_to("loop")
    (inside / "folder").mkdir()
    os.mkfifo(inside / "pipe")
    for path, message in [
        ("loop", "loop cannot be read"),
        ("folder", "folder is not a plain file"),
        ("pipe", "pipe is not a plain file"),
        ("folder/x/y", "the run left no folder/x/y"),
    ]:
        with pytest.raises(OutputError, match=message):
            reader(path).read(inside, SCALAR)


def test_a_link_inside_is_fine(put):
    folder = put('{"y": 2}', "step9.json")
    (folder / "out").symlink_to("step9.json")
    equal(JSONFile("out").read(folder, SCALAR), y=2)

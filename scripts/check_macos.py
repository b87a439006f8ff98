"""Cross-compiles all C++ of src/ for aarch64 macOS, and links the program, against MLX's Metal wheel.

The compiler is zig's (PyPI `ziglang`), which brings Apple's libc headers and libc++ and remembers what it has
compiled, so that the second time is quick. It compiles ggml's C as well. Headers of the other libraries are copied
into a folder of their own: /usr/include as a whole would put glibc's headers before Apple's. What this cannot check:
the Rust library and static libraries (no Apple target here; their symbols are left for load time), and anything at run
time.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from pins import mlx_version

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "macos"
HEADERS = ["nlohmann", "fmt", "yaml-cpp", "CLI", "simdjson.h", "curl"]
PLACES = [Path("/usr/include"), *Path("/usr/include").glob("*-linux-gnu")]
PLATFORM = "macosx_14_0_arm64"
ZIG = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-macos.14.0"]
ZIG_C = [*ZIG[:3], "cc", *ZIG[4:]]
FLAGS = ["-std=c++20", "-O0", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror", "-DFMT_HEADER_ONLY",
         "-g0", "-fno-sanitize=undefined"]  # nothing runs: without what zig adds by itself  # fmt: skip


def mlx_folder() -> Path:
    """include/ and lib/ of the Metal wheel of the pinned version."""
    folder = BUILD / f"mlx-{mlx_version()}"
    if not folder.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--only-binary=:all:", "--platform", PLATFORM, "--dest", BUILD, f"mlx-metal=={mlx_version()}"],
            check=True,
        )  # fmt: skip
        (wheel,) = BUILD.glob(f"mlx_metal-{mlx_version()}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder.with_suffix(".part"))
        wheel.unlink()
        folder.with_suffix(".part").rename(folder)
    return folder / "mlx"


def header_folder() -> Path:
    folder = BUILD / "include"
    folder.mkdir(parents=True, exist_ok=True)
    for name in HEADERS:
        source = next((place / name for place in PLACES if (place / name).exists()), None)
        if source is None:
            sys.exit(f"error: {name} is missing in /usr/include: run scripts/setup.sh")
        if source.is_dir():
            shutil.copytree(source, folder / name, dirs_exist_ok=True)
        else:
            shutil.copy2(source, folder / name)
    return folder


def llama_cpp_folder() -> Path:
    """llama.cpp's source, where cargo keeps it (cmake/ggml.cmake has fetched it)."""
    manifest = ROOT / "third_party" / "ggml" / "Cargo.toml"
    cargo = shutil.which("cargo") or Path.home() / ".cargo" / "bin" / "cargo"
    answer = subprocess.run(
        [cargo, "metadata", "--locked", "--quiet", "--format-version", "1", "--manifest-path", manifest],
        check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    packages = json.loads(answer.stdout)["packages"]
    (crate,) = (package for package in packages if package["name"] == "llama-cpp-sys-2")
    return Path(crate["manifest_path"]).parent / "llama.cpp"


def compile_ggml() -> tuple[Path, str]:
    ggml = llama_cpp_folder() / "ggml"
    source, result = "third_party/ggml/quants.c", BUILD / "objects" / "ggml_quants.o"
    result.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c11", "-w", "-DNDEBUG", "-D_DARWIN_C_SOURCE", "-fvisibility=hidden", "-Ithird_party/ggml",
             f"-I{ggml / 'include'}", f"-I{ggml / 'src'}"]  # fmt: skip
    done = subprocess.run([*ZIG_C, *flags, "-c", source, "-o", result], cwd=ROOT, capture_output=True, text=True)
    return result, f"{source}:\n{done.stderr}" if done.returncode else ""


def compile_one(source: Path, flags: list[str]) -> tuple[Path, str]:
    """The object file, and what the compiler said if it failed."""
    name = source.relative_to(ROOT).as_posix()
    result = BUILD / "objects" / f"{name}.o"
    result.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([*ZIG, *flags, "-c", name, "-o", result], cwd=ROOT, capture_output=True, text=True)
    return result, f"{name}:\n{done.stderr}" if done.returncode else ""


def link(objects: list[Path], mlx: Path) -> str:
    program = BUILD / "temper"
    libraries = [f"-L{mlx / 'lib'}", "-lmlx", "-Wl,-undefined,dynamic_lookup"]
    done = subprocess.run([*ZIG, *objects, *libraries, "-o", program], cwd=ROOT, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def main() -> int:
    mlx = mlx_folder()
    flags = [*FLAGS, '-DTEMPER_VERSION="macos-check"', "-Isrc", "-Irust", "-Ithird_party/ggml",
             "-isystem", str(header_folder()), "-isystem", str(mlx / "include")]  # fmt: skip
    sources = sorted((ROOT / "src").rglob("*.cpp"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = [*pool.map(lambda source: compile_one(source, flags), sources), compile_ggml()]
    errors = [error for _, error in results if error]
    if not errors and (error := link([path for path, _ in results], mlx)):
        errors = [f"linking:\n{error}"]
    for error in errors:
        print(error)
    print(f"macOS: {len(sources)} files compiled, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

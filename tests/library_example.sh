# For shell tests: the example program of libdeltad(3).

# Lays the library out as installed and builds the example as $2/ask.
example_build() { # build folder, work folder
	mkdir -p "$2/include" "$2/lib/pkgconfig"
	cp client/deltad.h "$2/include/"
	cp -P "$1"/lib/libdeltad.* "$2/lib/"
	sed -e "s|@prefix@|$2|; s|@libdir@|$2/lib|; s|@includedir@|$2/include|; s|@version@|0|" \
		client/libdeltad.pc.in >"$2/lib/pkgconfig/deltad.pc"
	sed -n '/example: begin/,/example: end/p' man/libdeltad.3 | grep -v '^\.' |
		sed 's/\\e/\\/g; s/\\-/-/g' >"$2/ask.c"
	PKG_CONFIG_PATH=$2/lib/pkgconfig
	export PKG_CONFIG_PATH
	# shellcheck disable=SC2046
	${CC:-cc} ${DELTAD_SANITIZE:-} -std=c11 -Wall -Wextra -Werror -o "$2/ask" "$2/ask.c" \
		$(pkg-config --cflags --libs deltad) -Wl,-rpath,"$2/lib"
}

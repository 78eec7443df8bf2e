# The arithmetic of the throttle, without a server: compiles src/pace.c with
# test/pace/pace-test.c and passes its tests on.
use strict;
use warnings FATAL => 'all';

use FindBin;

use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::RealBin/../..";
my $dir = PostgreSQL::Test::Utils::tempdir();

chomp(my $cc = `pg_config --cc`);
chomp(my $include = `pg_config --includedir-server`);
$cc = 'cc' if system("command -v $cc >/dev/null 2>&1") != 0;
plan skip_all => 'needs a C compiler and the headers of the server'
  unless system("command -v $cc >/dev/null 2>&1") == 0 && -e "$include/postgres.h";

my @command = ($cc, '-O1', '-Wall', "-I$top/src", '-isystem', $include, '-o', "$dir/pace-test", "$top/test/pace/pace-test.c", "$top/src/pace.c", '-lm');
is(system(@command), 0, 'it compiles without a server');
foreach my $line (split /\n/, `$dir/pace-test`)
{
	if ($line =~ /^(not )?ok \d+ - (.*)/) { ok(!$1, $2) }
	elsif ($line =~ /^# (.*)/) { diag($1) }
}
is($?, 0, 'it ran to its end');
done_testing();

# A session with the server that notices when it is lost: a psql that is fed
# statements one by one.  Needs nothing but psql.
package DWSession;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use IPC::Open3;
use Symbol 'gensym';

our @EXPORT = qw(session_open session_close session_do);

# Opens a session.  What goes to stderr goes to a file, where one is given.
sub session_open
{
	my ($connstr, $err_file) = @_;
	my $err = gensym;
	my $s = { err => $err };

	if (defined $err_file)
	{
		open my $file, '>', $err_file or die "$err_file: $!";
		$err = '>&' . fileno $file;
		$s->{err} = $file;
	}
	$s->{pid} = open3($s->{in}, $s->{out}, $err, 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $connstr);
	$s->{in}->autoflush(1);
	return $s;
}

sub session_close
{
	my ($s) = @_;

	local $SIG{PIPE} = 'IGNORE';
	close $s->{in};
	waitpid $s->{pid}, 0;
	return;
}

# Runs a statement.  Returns 'ok' and the rows, 'error' and its SQLSTATE, or
# 'lost' if the connection went before an answer came.
sub session_do
{
	my ($s, $sql) = @_;
	my @rows;

	local $SIG{PIPE} = 'IGNORE';
	print { $s->{in} } "$sql;\n\\echo done :ERROR :SQLSTATE\n" or return ('lost');
	while (defined(my $line = readline $s->{out}))
	{
		chomp $line;
		if ($line =~ /^done (\w+) (\w*)$/)
		{
			return ('ok', @rows) if $1 eq 'false';
			# what libpq itself says has no SQLSTATE
			return $2 =~ /^(?:57P|08|$)/ ? ('lost') : ('error', $2);
		}
		push @rows, $line;
	}
	return ('lost');
}

1;

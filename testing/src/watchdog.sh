# Runs one server for the owner of a pipe, and outlives the owner by just as long as it takes to clean up.
#
#   $1 the server's directory   $2 the signal that stops it   $3… its command
#
# Standard input is the pipe. A line on it says: start. Its end says: the owner is done, or dead.
directory=$1
signal=$2
shift 2
# A command in the background would find /dev/null as its standard input.
exec 3<&0 </dev/null

if read -r line <&3; then
    "$@" >>"$directory/log" 2>&1 3<&- &
    server=$!
    (
        while read -r line <&3; do :; done
        # From here on the end waits for the end of a `sleep`, which would be nobody's otherwise.
        trap 'exit 0' TERM
        # Again and again: the first may come before the server listens to signals. After ten seconds no more asking.
        tries=0
        while kill -s "$signal" "$server" 2>/dev/null; do
            [ "$tries" -lt 100 ] || signal=KILL
            tries=$((tries + 1))
            sleep 0.1
        done
    ) &
    stopper=$!
    wait "$server"
    status=$?
    # From here on the number may be another process's.
    kill -s TERM "$stopper" 2>/dev/null
    wait "$stopper"
    # For an owner that still waits for the server; the log has to stay until it has been read. Under its name only when
    # it is whole: the owner may look between the making of a file and its first byte.
    echo "$status" >"$directory/ended.new" && mv "$directory/ended.new" "$directory/ended"
    while read -r line <&3; do :; done
fi

# Again and again: an owner that was killed may have left a program behind that still writes here.
tries=0
while [ "$tries" -lt 100 ]; do
    rm -rf "$directory" && break
    tries=$((tries + 1))
    sleep 0.1
done
